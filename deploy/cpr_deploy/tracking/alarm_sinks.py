"""Where alarms can go: a webhook (HTTP POST of JSON) or a topic of an MQTT broker."""

from __future__ import annotations

import base64
import http.client
import json
import queue
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from typing import Any

from cpr_deploy.addresses import redacted
from cpr_deploy.files import InputError
from cpr_deploy.tracking.alarms import AlarmSink, DeliveryError

# Seconds for a receiver to answer.
TIMEOUT = 5.0
# HTTP codes of a receiver that may do better later; other refusals (4xx) are for good.
_LATER = (401, 403, 404, 408, 425, 429)


def open_sink(address: str) -> AlarmSink:
    """The sink of an address.

    http://[user:password@]host/path, https://..: each alarm is POSTed as JSON.
    mqtt://[user:password@]host[:port]/topic, mqtts://.. (TLS): published with quality 1.

    Raises:
        InputError: another kind of address, or the library for it is not installed.
    """
    try:
        parts = urllib.parse.urlsplit(address)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host or any(ord(letter) <= 32 for letter in address):
        raise InputError(f"--alarms {redacted(address)}: is no address, as in https://host/path.")
    if parts.scheme in ("http", "https"):
        return Webhook(address)
    if parts.scheme in ("mqtt", "mqtts"):
        return MqttTopic(address)
    raise InputError(
        f"--alarms {redacted(address)}: alarms can be sent to http://, https://, mqtt://, mqtts://."
    )


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect would make a GET of our POST, and could lead into our network."""

    def redirect_request(self, *_) -> None:
        return None


class Webhook:
    """POSTs alarms as JSON; any code from 200 to 299 is a receipt. Redirects are not followed."""

    def __init__(self, url: str, *, timeout: float = TIMEOUT):
        parts = urllib.parse.urlsplit(url)
        self.name = redacted(url)
        self._headers = {"Content-Type": "application/json", "User-Agent": "cpr-deploy"}
        if parts.username is not None:
            user = urllib.parse.unquote(parts.username)
            password = urllib.parse.unquote(parts.password or "")
            code = base64.b64encode(f"{user}:{password}".encode()).decode()
            self._headers["Authorization"] = f"Basic {code}"
            parts = parts._replace(netloc=parts.netloc.rpartition("@")[2])
        self._url = urllib.parse.urlunsplit(parts)
        self._timeout = timeout
        # No proxies from the environment: the address given is the one that is asked.
        self._opener = urllib.request.build_opener(_NoRedirects, urllib.request.ProxyHandler({}))

    def deliver(self, alarm: Mapping[str, Any]) -> None:
        body = json.dumps(alarm, allow_nan=False).encode()
        request = urllib.request.Request(self._url, body, self._headers, method="POST")
        try:
            with self._opener.open(request, timeout=self._timeout) as answer:
                answer.read(1)
        except urllib.error.HTTPError as error:
            final = 400 <= error.code < 500 and error.code not in _LATER
            error.close()
            raise DeliveryError(f"{self.name} answers {error.code}", final=final) from None
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            raise DeliveryError(f"{self.name} is not reached: {reason}") from None


class MqttTopic:
    """Publishes alarms as JSON with quality 1: the broker has acknowledged each."""

    def __init__(self, url: str, *, timeout: float = TIMEOUT):
        try:
            import paho.mqtt.client  # noqa: F401
        except ModuleNotFoundError:
            raise InputError(
                "--alarms mqtt://..: needs paho-mqtt. Install it: pip install"
                " 'cpr-point-localization[track]'."
            ) from None
        parts = urllib.parse.urlsplit(url)
        self.name = redacted(url)
        self._topic = urllib.parse.unquote(parts.path.strip("/"))
        wild = {"#", "?"} & set(url) or {"#", "+", "\0"} & set(self._topic)
        if not self._topic or wild:
            raise InputError(
                f"--alarms {self.name}: a topic without # and + is needed, as in"
                " mqtt://host/alarms/gate."
            )
        self._secure = parts.scheme == "mqtts"
        self._address = (parts.hostname, parts.port or (8883 if self._secure else 1883))
        self._user = None if parts.username is None else urllib.parse.unquote(parts.username)
        self._password = urllib.parse.unquote(parts.password or "")
        self._timeout = timeout

    def deliver(self, alarm: Mapping[str, Any]) -> None:
        # A connection for each: alarms are rare, no half-open one can hide that none arrives, and
        # what was given up is not sent by it later.
        body = json.dumps(alarm, allow_nan=False)
        answers: queue.Queue[Any] = queue.Queue()
        client = self._client(answers)
        try:
            client.connect(*self._address)
            client.loop_start()
            try:
                answer = answers.get(timeout=self._timeout)
                if answer.is_failure:
                    raise DeliveryError(f"{self.name} answers: {answer}")
                message = client.publish(self._topic, body, qos=1)
                message.wait_for_publish(self._timeout)
                sent = message.is_published()
            finally:
                client.disconnect()
                client.loop_stop()
        except (OSError, ValueError, RuntimeError) as error:
            raise DeliveryError(f"{self.name} is not reached: {error}") from None
        except queue.Empty:
            raise DeliveryError(f"{self.name} does not answer") from None
        if not sent:
            raise DeliveryError(f"{self.name} does not acknowledge")

    def _client(self, answers: queue.Queue):
        """A client that is not connected; the broker's answer to that comes into `answers`."""
        from paho.mqtt.client import Client
        from paho.mqtt.enums import CallbackAPIVersion

        client = Client(CallbackAPIVersion.VERSION2)
        client.connect_timeout = self._timeout
        client.on_connect = lambda _client, _data, _flags, reason, _properties: answers.put(reason)
        if self._secure:
            client.tls_set()
        if self._user is not None:
            client.username_pw_set(self._user, self._password)
        return client
