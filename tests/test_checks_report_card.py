"""The checks of the report card: the right answer passes, typical wrong ones are told what is wrong."""

import math

from verdicts import verdict_test

from convit_edu.lab.intervals import student_t


def corrected(mean, half, n, m):
    wide = half * student_t(n - 1, 1 - 0.05 / m) / student_t(n - 1)
    return mean - wide, mean + wide


def around(half):
    return lambda mean, old, n, m: (mean - half(old, n, m), mean + half(old, n, m))


def needed(half, n, wanted):
    spread = half / student_t(n - 1) * math.sqrt(n)
    seeds = 2
    while student_t(seeds - 1) * spread / math.sqrt(seeds) > wanted:
        seeds += 1
    return seeds


test_verdict = verdict_test(
    {
        "false_holds": [
            (lambda one, two: 0.025 * one + 0.05 * two, "Correct."),
            (lambda one, two: 0.05 * (one + two), "that is half of them"),
            (lambda one, two: 0.025 * (one + two), "holds on either side of 0"),
            (lambda one, two: 1 - 0.95 ** (one + two), "the chance of at least one"),
            (lambda one, two: None, "does the function return something?"),
        ],
        "corrected": [
            (corrected, "Correct."),
            (around(lambda half, n, m: half * m), "does not grow with the number of comparisons itself"),
            (around(lambda half, n, m: half), "nothing has changed"),
            (around(lambda half, n, m: half * student_t(n - 1, 1 - 0.05 / m)), "divide by the old quantile"),
            (around(lambda half, n, m: half * student_t(n, 1 - 0.05 / m) / student_t(n)), "n - 1 degrees"),
            (lambda mean, half, n, m: (mean, mean + half), "not centred on the mean"),
        ],
        "seeds_needed": [
            (needed, "Correct."),
            (lambda half, n, wanted: math.ceil(n * half / wanted), "with the root of the number"),
            (lambda half, n, wanted: math.ceil(n * (half / wanted) ** 2), "the quantile shrinks too"),
            (lambda half, n, wanted: needed(half, n, wanted) + 1, "one fewer would do"),
            (lambda half, n, wanted: needed(half, n, wanted) - 1, "one more is needed"),
        ],
    }
)
