"""One function `check_<kind>(case)` per kind of golden vector, by area."""
