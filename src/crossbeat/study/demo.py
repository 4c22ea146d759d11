"""The demonstration: every method of the house on a dozen synthetic hearts, in minutes on two cores."""

from __future__ import annotations

from crossbeat.study.plan import Study


def demo_study() -> Study:
    """All methods in METHODS and both bounds, from bSSFP to LGE, each at its `demo` size."""
    return Study.of(
        {
            "name": "demo",
            "title": "Every method on synthetic hearts",
            "question": "Labels on cine bSSFP, none on LGE: which method segments LGE?",
            "size": "demo",
            "source": {"sequence": "bssfp"},
            "target": {"sequence": "lge"},
            "methods": "all",
            "folds": 1,
            "arms": {
                "random_contrast": {
                    "about": "source only, most images through a random contrast curve",
                    "settings": {"augmentation": "random_contrast"},
                }
            },
            "phantom": {"subjects": 16, "test": 8, "cine": True, "frames": 6, "annotated": "ed_es"},
        }
    )
