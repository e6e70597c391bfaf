"""The test that the checks of the exercises share."""

import pytest

from convit_edu.book import checks


def verdict_test(cases, **made):
    """A test function for `cases`: name of a check -> (answer, words that its verdict must hold) pairs.

    A function in `made`, named as a check, makes what that one is given from its answers.
    """

    @pytest.mark.parametrize(
        ("name", "answer", "message"), [(name, *case) for name, pairs in cases.items() for case in pairs]
    )
    def test_the_verdict(capsys, name, answer, message):
        getattr(checks, f"check_{name}")(made[name](answer) if name in made else answer)
        verdict = capsys.readouterr().out.strip()
        assert message in verdict
        assert verdict == "Correct." or verdict.startswith("Not yet: ")

    return test_the_verdict
