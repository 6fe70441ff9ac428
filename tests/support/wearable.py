"""A wearable for tests: an MQTT client with a device's enrolment, and packets made to measure."""

from __future__ import annotations

import json
import ssl
import threading
import time
from pathlib import Path

import numpy as np
import paho.mqtt.client as mqtt
from numpy.typing import NDArray

from edgeward.waveform import WaveformPacket, encode

RATE = 250.0


def ecg(seconds: float, bpm: float, rate: float = RATE, noise_uv: float = 8.0, seed: int = 0) -> NDArray[np.int16]:
    """Plain regular ECG in microvolts: P, QRS, T as Gaussians on a little noise."""
    t = np.arange(round(seconds * rate)) / rate
    signal = np.random.default_rng(seed).normal(0, noise_uv, t.size)
    for beat in np.arange(0.4, seconds + 1, 60.0 / bpm) if bpm else ():
        for at, width, height in (
            (-0.17, 0.022, 120),
            (-0.02, 0.009, -110),
            (0, 0.011, 1100),
            (0.025, 0.01, -200),
            (0.25, 0.05, 260),
        ):
            signal += height * np.exp(-0.5 * ((t - beat - at) / width) ** 2)
    return np.rint(signal).astype(np.int16)


class Wearable:
    """Connects, and publishes what it is given."""

    def __init__(self, folder: Path, rate: float = RATE) -> None:
        card = json.loads((folder / "device.json").read_text())
        self.rate, self.sequence, self.sample = rate, 0, 0
        self.topic = card["mqtt"]["topic"]
        self._connected = threading.Event()
        self.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=card["device_id"])
        context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(folder / "device.pem", folder / "device.key")
        self.client.tls_set_context(context)
        self.client.on_connect = lambda *_: self._connected.set()
        self.client.reconnect_delay_set(1, 2)
        self.client.connect("localhost", card["mqtt"]["port"])
        self.client.loop_start()
        if not self._connected.wait(10):
            raise TimeoutError("the MQTT listener did not accept the device")

    def packet(self, samples: NDArray[np.int16], *, off: bool = False, flags: int = 0) -> bytes:
        """Return the next packet."""
        data = encode(
            WaveformPacket(
                samples=samples.reshape(1, -1), sequence=self.sequence, first_sample=self.sample,
                start_ns=time.time_ns(), rate_hz=self.rate, gain_uv=1.0, leads=("II",), lead_off=(off,), flags=flags,
            )
        )  # fmt: skip
        self.sequence += 1
        self.sample += samples.size
        return data

    def send(self, data: bytes) -> None:
        self.client.publish(self.topic, data, qos=1).wait_for_publish(10)

    def play(self, samples: NDArray[np.int16], step_s: float = 0.5) -> None:
        """Send a stretch of signal at once, in packets of `step_s`: the monitor's clock is the sample count."""
        step = round(step_s * self.rate)
        for start in range(0, samples.size - step + 1, step):
            self.send(self.packet(samples[start : start + step]))

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()
