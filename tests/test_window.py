import pytest

from cpr_deploy.files import InputError
from cpr_deploy.window import Window


def test_without_a_display_it_is_an_error_and_not_the_end(monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    with pytest.raises(InputError, match="there is no display. Use --web PORT"):
        Window("1", lambda: None)
