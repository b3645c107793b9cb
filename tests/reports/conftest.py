"""Pages are made of what the evaluation room makes."""

from tests.evaluation.conftest import (  # noqa: F401
    evaluation,
    files,
    made,
    page,
    prediction_page,
)
