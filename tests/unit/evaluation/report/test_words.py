import pytest

from backstay.evaluation.report import words
from backstay.evaluation.report.words import (
    between,
    duration,
    listed,
    memory,
    number,
    percent,
    share,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (percent(None), "–"),
        (percent(-0.04), "0.0 %"),
        (percent(-5.74), "−5.7 %"),
        (percent(1.25), "+1.2 %"),
        (between(None), ""),
        (between((0.0, 0.0)), ""),
        (between((-1.2, 0.34)), "−1.2 to +0.3"),
        (share(None), "–"),
        (share(0.123), "12.3 %"),
        (share(-0.5), "−50.0 %"),
        (listed(["a"]), "a"),
        (listed(["a", "b", "c"], "or"), "a, b or c"),
        (number(None), "–"),
        (number(0.28516, 4), "0.2852"),
        (duration(None), "–"),
        (duration(2.34), "2.3 s"),
        (duration(95.2), "95 s"),
        (duration(150), "2.5 min"),
        (duration(9000), "2.5 h"),
        (memory(None), "–"),
        (memory(812.4), "812 MB"),
        (memory(1512), "1.5 GB"),
    ],
)
def test_figures_in_words(text, expected):
    assert text == expected


def test_every_method_of_the_comparison_has_its_words(results):
    assert {row.method for row in results.summary} <= set(words.METHODS)
