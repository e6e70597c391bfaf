"""The checks of chapter 01: the right answer passes, typical wrong ones are told what is wrong."""

import torch
from verdicts import verdict_test


def correlation(image, d, centre=True, divide=True, across=True, down=True):
    x = image - image.mean() if centre else image
    products = [(x[:, d:] * x[:, :-d]).flatten()] * across + [(x[d:] * x[:-d]).flatten()] * down
    return torch.cat(products).mean() / (image.var(correction=0) if divide else 1)


def wrapping(image, d):
    z = (image - image.mean()) / image.std(correction=0)
    return ((z * z.roll(d, 0)).mean() + (z * z.roll(d, 1)).mean()) / 2


def nearest(W, G, mean=True):
    kernel, number = torch.zeros(3, 3).double(), torch.zeros(3, 3)
    for i in range(G * G):
        for j in range(G * G):
            y, x = j // G - i // G, j % G - i % G
            if abs(y) <= 1 and abs(x) <= 1:
                kernel[y + 1, x + 1] += W[i, j]
                number[y + 1, x + 1] += 1
    return kernel / number if mean else kernel


CASES = {
    "correlation": [
        (correlation, "Correct."),
        (lambda i, d: correlation(i, d).item(), "Correct."),
        (lambda i, d: correlation(i, d, divide=False), "this is a covariance"),
        (lambda i, d: correlation(i, d, centre=False), "the mean of the image is not subtracted."),
        (lambda i, d: correlation(i, d, centre=False, divide=False), "nor is the variance"),
        (lambda i, d: correlation(i, d, down=False), "only pairs within a row"),
        (lambda i, d: correlation(i, d, across=False), "only pairs within a column"),
        (lambda i, d: correlation(i, d, divide=False) / i.std(correction=0), "not by the standard deviation"),
        (lambda i, d: correlation(i, d, divide=False) / i.var(), "not by one less"),
        (lambda i, d: (correlation(i, d, down=False) + correlation(i, d, across=False)) / 2, "all pairs count alike"),
        (wrapping, "wrap around"),
        (lambda i, d: 1.0, "compare with the 3 × 3 example"),
        (lambda i, d: ..., "your answer is Ellipsis"),
    ],
    "first_layer": [
        (lambda W, p: W[:, p], "Correct."),
        (lambda W, p: W, "these are the old weights"),
        (lambda W, p: W[:, p.argsort()], "this is the inverse permutation"),
        (lambda W, p: W.flip(1), "each column of W belongs to a pixel"),
        (lambda W, p: W[p], "your code stopped with IndexError"),
        (lambda W, p: ..., "your answer is Ellipsis"),
    ],
    "nearest_kernel": [
        (nearest, "Correct."),
        (lambda W, G: nearest(W, G, mean=False), "this is the sum"),
        (lambda W, G: nearest(W, G, mean=False) / G**2, "fewer pairs"),
        (lambda W, G: nearest(W, G).flip(0, 1), "turned by 180 degrees"),
        (lambda W, G: nearest(W, G).T, "exchanged"),
        (lambda W, G: torch.zeros(3, 3), "for each of the nine offsets"),
        (lambda W, G: ..., "your answer is Ellipsis"),
    ],
}

test_the_verdict = verdict_test(CASES)
