"""The report card: complete, true to the records, and the paper's numbers where they belong."""

import re
from types import SimpleNamespace

from loading import module_at

from convit_edu.book import cards
from convit_edu.lab import claims
from convit_edu.lab.intervals import Estimate, estimate, power, student_t


def test_the_papers_differences_are_the_numbers_that_are_shown_each_beside_a_comparison_of_ours():
    for name, source in claims.CLAIMS.items():
        for value in source.differences.values():
            assert re.search(rf"\+{re.escape(f'{value:.1f}')}(?!\d)|\+{value:g}(?![\d.])", source.said)
        if source.differences:  # a comparison that was renamed would lose its mark in the figure
            assert any(source.difference(part.name) is not None for part in claims.parts_of(name))


def test_a_difference_is_found_by_first_or_last_words_only():
    source = claims.Claim("", "Table 2", "", "08", "psa", list, {"5 %": 13.0, "GPSA layers": 2.6})
    assert source.difference("5 %, 300 steps") == 13.0
    assert source.difference("4 - 1 GPSA layers") == 2.6
    assert source.difference("25 %, 300 steps") is None


def planted(**scales):
    """A card with made-up comparisons: by scale and claim, pairs of a mean and half an interval."""

    def parts(name, pairs):
        sizes = ("small", "medium", "large")
        return [claims.Part(sizes[k], Estimate(mean, half, 5)) for k, (mean, half) in enumerate(pairs)]

    return claims.Card({scale: {n: parts(n, p) for n, p in found.items()} for scale, found in scales.items()}, [])


def links(body):
    return re.findall(r'<a href="([^"]+)">', body)


def test_the_card_shows_what_the_claims_module_finds():
    card = claims.card()
    text = str(card)
    assert sorted(name for names in card.groups.values() for name in names) == sorted(claims.CLAIMS)
    assert list(card.recorded) == ["colour", "laptop"]
    assert "C15" in card.groups[claims.IN_PART]  # which has no seeds: it holds on a CPU
    assert all(card.recorded[scale].keys() == claims.tested(scale).keys() for scale in card.recorded)
    (part,) = claims.parts_of("C12")
    found = f"+{part.found.mean:.1f} points; 95 % interval +{part.found.low:.1f} to +{part.found.high:.1f}; seeds 5"
    assert f"loss of DeiT - loss of ConViT: the paper +27.9; here {found}; verdict ✓ holds" in text
    for name in claims.CLAIMS:
        assert text.count(f"  {name}  {claims.CLAIMS[name].statement}") == 1


def test_claims_are_grouped_by_the_verdict_on_their_comparisons_at_all_scales():
    yes, no, open_ = (3.0, 1.0), (-3.0, 1.0), (1.0, 2.0)
    first = {"C1": [no], "C2": [no], "C4": [yes], "C3": [open_]}
    card = planted(colour={"C1": [yes], "C2": [no], "C5": [yes]}, laptop=first)
    assert card.groups == {
        "holds": ["C4", "C5"], "holds in part": ["C1"], "open": ["C3"], "contradicted": ["C2"],
        "not measured": [name for name in claims.CLAIMS if name not in ("C1", "C2", "C3", "C4", "C5")],
    }  # fmt: skip
    assert list(card.found("C1")) == ["colour", "laptop"] and list(card.found("C4")) == ["laptop"]
    assert card.comparisons["C1"] == [*card.found("C1")["colour"], *card.found("C1")["laptop"]]


def test_a_block_says_the_verdict_first_and_shows_the_paper_beside_every_scale():
    card = planted(colour={"C1": [(3.0, 1.0)]}, laptop={"C1": [(-3.04, 1.0), (1.0, 2.0)]})
    body = cards.show(card).body
    block = body[body.index('<div class="claim">') : body.index("</details>")]
    assert re.search(r'<p><span class="verdict part"><i>◐</i> holds in part</span> <b>C1</b> ConViT is better', block)
    sides = re.findall(r"<dt>(.*?)</dt>(.*?)</div>", block)
    assert [re.sub("<.*?>", "", side) for side, _ in sides] == [
        "the paper, Table 1", "here, scale colour ✓ holds", "here, scale laptop ○ open",
    ]  # fmt: skip
    assert "+0.8, +3.2, +5.0 points" in sides[0][1] and "<b>+3.0 points</b>" in sides[1][1]
    assert re.findall(r"<i.*?>(.)</i> <b>(.*?) points</b>, (\w+)", sides[2][1]) == [
        ("✗", "−3.0", "small"), ("○", "+1.0", "medium"),
    ]  # fmt: skip
    folded = block[block.index("<details>") :]
    assert "3 comparisons with their intervals" in folded and folded.count("<table>") == 2
    assert '<td data-of="95 % interval">−4.0 to −2.0</td>' in folded and "<caption>scale colour</caption>" in folded
    assert "−4.0" not in block[: block.index("<details>")]
    one = cards.show(planted(laptop={"C1": [(3.0, 1.0)]})).body
    assert "the comparison with its interval" in one and "<caption>" not in one and "here, scale laptop</dt>" in one


def test_a_comparison_has_its_power_and_its_verdict_corrected_for_all():
    # Two comparisons, one plain by far and one on the edge: p = 0.049 holds alone, and not as one of two.
    card = planted(laptop={"C1": [(3.0, 1.0)], "C2": [(1.0, 0.99)], "C3": [(0.1, 1.0)]})
    first, second, third = re.findall(r"<table>.*?</table>", cards.show(card).body, re.S)
    headings = [re.findall(r'<th scope="col">(.*?)</th>', table) for table in (first, second)]
    shared = ["here", "95 % interval", "seeds", "verdict", "corrected for all"]
    assert headings[0] == ["compared", "the paper", *shared, "power for the paper&#x27;s"]
    assert headings[1] == ["compared", *shared]  # no number of the paper's for a comparison of this name
    assert '<td data-of="corrected for all">holds</td>' in first
    assert '<td data-of="verdict">✓ holds</td>' in second and '<td data-of="corrected for all">open</td>' in second
    part = card.recorded["laptop"]["C1"][0]
    expected = power(0.8, part.found.half * 5**0.5 / student_t(4), 5)
    assert f">{100 * expected:.0f} %</td>" in first and 0.05 < expected < 0.95


def test_one_seed_has_no_interval():
    card = claims.Card({"laptop": {"C10": [claims.Part("a - b", estimate([1.25]), "patches")]}}, [])
    assert "a - b: here +1.25 patches; seeds 1; verdict ○ open" in str(card)
    assert "95 % interval" not in cards.show(card).body
    point = claims.Card({"laptop": {"C1": [claims.Part("small", estimate([1.25]))]}}, [])
    assert "small, laptop: +1.2 points, open; the paper +0.8" in cards.forest(point).words


def test_nothing_recorded_leaves_the_papers_side(tmp_path):
    card = claims.card(tmp_path)
    assert card.groups == {"not measured": list(claims.CLAIMS)}
    body = cards.show(card).body
    assert body.count('<div class="claim">') == len(claims.CLAIMS) and "here" not in re.sub(r"\bthere\b", "", body)
    assert "the paper, Table 2" in body and cards.forest(card).words == "Comparisons in points"


def test_what_the_setting_decides_is_shown_as_such():
    half = str(claims.card())  # of C10, and of C11
    assert half.count(f"verdict – {claims.BOUND}") == 4 and "C10" in claims.card().groups[claims.HOLDS]
    whole = claims.Card({"colour": {"C1": [claims.Part("small", Estimate(3.0, 1.0, 5), bound=True)]}}, [])
    assert whole.groups[claims.BOUND] == ["C1"] and "corrected for all" not in str(whole)


def test_what_rounds_to_nothing_has_no_minus():
    card = planted(laptop={"C1": [(-0.04, 0.01)]})
    assert "here +0.0 points; 95 % interval -0.1 to +0.0" in str(card)
    assert "−0.0" not in cards.show(card).body + cards.forest(card).body


# --- the forest plot


def test_the_forest_has_a_line_for_every_comparison_in_points_and_every_scale():
    card = claims.card()
    plot = cards.forest(card)
    wanted = sum(
        part.unit == "points" for found in card.recorded.values() for parts in found.values() for part in parts
    )
    assert plot.body.count('<span class="mean"><i') == wanted == len(plot.words.splitlines()) - 1
    two = cards.forest(planted(colour={"C1": [(3.0, 1.0)]}, laptop={"C1": [(-3.0, 1.0)], "C2": [(1.0, 2.0)]})).body
    assert re.findall(r'<div class="bar"><span>(\w*)</span>', two)[1:-1] == ["colour", "laptop", "laptop"]
    assert "<span>laptop</span>" not in cards.forest(planted(laptop={"C1": [(-3.0, 1.0)]})).body


def test_what_lies_beyond_the_axis_is_an_arrow_and_the_number_stands_beside_it():
    def drawn(mean, half):
        return re.findall(r"<svg class=.*?</i> [^<]*", cards.forest(planted(laptop={"C1": [(mean, half)]})).body)[0]

    inside, left, right = drawn(3.0, 1.0), drawn(-45.9, 2.0), drawn(26.0, 8.0)
    assert 'class="head"' not in inside and '<circle cx="46.0%"' in inside and 'x1="44.0%" x2="48.0%"' in inside
    assert left.count('class="head"') == 1 and "<circle" not in left and left.endswith("−45.9")
    assert right.count('class="head"') == 1 and "<circle" in right
    said = cards.forest(planted(laptop={"C1": [(-45.9, 2.0)]})).body
    assert "−45.9<span> (−47.9 to −43.9), contradicted; the paper +0.8</span>" in said


# --- in a page


def test_a_page_and_a_notebook_get_html_and_words():
    shown = cards.show(claims.card())
    bundle = shown._repr_mimebundle_()
    assert bundle["text/plain"] == str(claims.card()) == repr(shown)
    html = bundle["text/html"]
    assert html.startswith('<div class="convit-card">\n<style>') and "http" not in html and len(html) < 200_000
    for tag in ("div", "p", "dl", "dt", "dd", "table", "details", "summary", "span", "i", "b", "svg"):
        assert len(re.findall(rf"<{tag}[ >]", html)) == html.count(f"</{tag}>"), tag


def test_links_to_chapters_lead_to_the_built_pages():
    chapters = module_at("book/_ext/chapters.py")
    body = cards.show(claims.card()).body
    assert {claim.chapter + ".ipynb" for claim in claims.CLAIMS.values()} == set(links(body))
    env = SimpleNamespace(found_docs={f"book/{claim.chapter}" for claim in claims.CLAIMS.values()})
    context = {"body": body, "pathto": lambda page: page.removeprefix("book/") + ".html"}
    chapters.resolve(SimpleNamespace(env=env), "book/report-card", "", context, None)
    assert {claim.chapter + ".html" for claim in claims.CLAIMS.values()} == set(links(context["body"]))
