"""Notes of synthetic tones, speech against noise."""

from __future__ import annotations

import functools
import wave
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.accuracy.packages import folder
from benchmarks.accuracy.task import Array, Feed, Task, percent, predictor, stacked
from tests.assets import fetch

SAMPLES, RATE = 43844, 22050
LOWEST, FIRST, LAST = 21, 40, 86  # MIDI numbers: of the first output, and of the tones


def tone(midi: float, rng: np.random.Generator, samples: int = SAMPLES, rate: int = RATE) -> Array:
    """A note of five harmonics with an onset and a decay of its own."""
    t = np.arange(samples) / rate
    frequency = 440 * 2 ** ((midi - 69) / 12)
    weights = rng.uniform(0.3, 1, 5) / np.arange(1, 6)
    phases = rng.uniform(0, 2 * np.pi, 5)
    wave_form = sum(
        w * np.sin(2 * np.pi * k * frequency * t + p)
        for k, (w, p) in enumerate(zip(weights, phases, strict=True), 1)
        if k * frequency < rate / 2
    )
    start = rng.uniform(0, 0.3)
    shape = np.clip((t - start) / 0.02, 0, 1) * np.exp(-np.clip(t - start, 0, None) * rng.uniform(0.2, 1.5))
    return np.asarray(0.2 * wave_form * shape, np.float32)


class Notes(Task):
    """basic-pitch: which notes sound."""

    name = "basic_pitch"
    metric = "notes"
    data_note = "one to three synthetic tones; 96 single ones in noise to measure on"

    def path(self) -> Path:
        """A published file."""
        return fetch("basic_pitch")

    def calibration(self, n: int, seed: int = 0) -> Feed:
        """Chords and tones at pitches between the semitones too."""
        rng = np.random.default_rng((1, seed))
        rows = []
        for _ in range(n):
            sound = sum(tone(rng.uniform(FIRST, LAST), rng) for _ in range(rng.integers(1, 4)))
            rows.append(sound + rng.normal(0, rng.uniform(0, 0.02), SAMPLES))
        return {"serving_default_input_2:0": np.stack(rows).astype(np.float32)[:, :, None]}

    @functools.cached_property
    def _held_out(self) -> tuple[Array, Array]:
        rng = np.random.default_rng(0)
        notes = np.tile(np.arange(FIRST, LAST + 1, 2), 4)
        sounds = [tone(midi, rng) + rng.normal(0, 0.01 * (i // 24), SAMPLES) for i, midi in enumerate(notes)]
        return np.stack(sounds).astype(np.float32)[:, :, None], notes

    @functools.cached_property
    def _original(self) -> Array:
        """Which cells of time and pitch the original calls active (n, time, 88)."""
        out = [stacked(self.path(), self._stacked, 8, output) for output in (0, 1)]
        self._output = int(out[1].max(2).mean() > out[0].max(2).mean())  # a note lasts longer than its onset
        return out[self._output] > 0.5

    @property
    def _stacked(self) -> Feed:
        return {"serving_default_input_2:0": self._held_out[0]}

    def measures(self, model: Any) -> dict[str, float]:
        """Share of tones whose strongest note is right, and how much of the active cells is as in the original."""
        wanted, notes = self._original, self._held_out[1]
        found = stacked(model, self._stacked, 8, self._output)
        active = found > 0.5
        overlap = 100 * float((active & wanted).sum() / max(1, (active | wanted).sum()))
        return {"notes": percent(found.mean(1).argmax(1) + LOWEST == notes), "active cells": overlap}


CONTEXT, CHUNK = 64, 512


def recording(path: Path) -> Array:
    """A mono file of 16 bits at 8 kHz as samples at 16 kHz."""
    with wave.open(str(path)) as file:
        raw = np.frombuffer(file.readframes(file.getnframes()), np.int16).astype(np.float32) / 32768
        rate = file.getframerate()
    spectrum = np.fft.rfft(raw)
    size = round(len(raw) * 16000 / rate)
    padded = np.zeros(size // 2 + 1, np.complex128)
    padded[: min(len(spectrum), len(padded))] = spectrum[: len(padded)]
    return (np.fft.irfft(padded, size) * size / len(raw)).astype(np.float32)


def chunks(sound: Array) -> Feed:
    """A recording as the network's inputs: chunks of 512 samples, each after the 64 before it."""
    count = -(-len(sound) // CHUNK)
    padded = np.zeros(CONTEXT + count * CHUNK, np.float32)
    padded[CONTEXT : CONTEXT + len(sound)] = sound
    rows = np.lib.stride_tricks.sliding_window_view(padded, CONTEXT + CHUNK)[::CHUNK]
    state = np.zeros((1, 1, 128), np.float32)
    return {"input": rows.copy(), "h": state, "c": state.copy()}


def noise(rng: np.random.Generator, size: int) -> Array:
    """White to brown noise with a hum, knocks or whistles in it, at a loudness of its own."""
    bend = np.arange(1, size // 2 + 2, dtype=np.float64) ** -rng.uniform(0, 1)
    sound = np.fft.irfft(np.fft.rfft(rng.normal(size=size)) * bend, size)
    sound /= np.abs(sound).max()
    t = np.arange(size) / 16000
    kind = rng.integers(4)
    if kind == 1:
        sound += sum(np.sin(2 * np.pi * 50 * k * t) / k for k in range(1, 6))
    elif kind == 2:
        sound += np.sin(2 * np.pi * rng.uniform(300, 3000) * t)
    elif kind == 3:
        knocks = rng.random(size) < 3 / 16000
        sound += np.convolve(knocks, np.exp(-np.arange(400) / 60), "same")
    return np.asarray(rng.uniform(0.02, 0.5) * sound / np.abs(sound).max(), np.float32)


def mixed(speech: Array, rng: np.random.Generator, decibels: float) -> Array:
    """Speech in noise that many decibels below it."""
    other = noise(rng, len(speech))
    power = np.sqrt(np.mean(speech**2) / max(float(np.mean(other**2)), 1e-12))
    return np.asarray(speech + other * power * 10 ** (-decibels / 20), np.float32)


def auc(positive: npt.ArrayLike, negative: npt.ArrayLike) -> float:
    """How often a positive scores higher than a negative, ties counting half."""
    a, b = np.asarray(positive)[:, None], np.asarray(negative)[None]
    return float(np.mean((a > b) + 0.5 * (a == b)))


class Speech(Task):
    """Silero VAD on sequences: is somebody speaking."""

    name = "silero_vad_16k_sequence"
    metric = "AUC"
    samples = 128
    data_note = "spoken phrases and noise; spoken digits and letters, clean and in noise, to measure on"

    def path(self) -> Path:
        """A published file."""
        return fetch("silero_vad_16k_sequence")

    @functools.cached_property
    def _recordings(self) -> tuple[list[Array], list[Array]]:
        """Single digits, letters and such; whole phrases."""
        short: list[Array] = []
        long: list[Array] = []
        words = {p.name for kind in ("digits", "letters", "phonetic") for p in folder("speech").glob(f"{kind}-*.wav")}
        for path in sorted(folder("speech").glob("*.wav")):
            (short if path.name in words else long).append(recording(path))
        return short, [s for s in long if len(s) >= 16000]

    def calibration(self, n: int, seed: int = 0) -> list[Feed]:
        """Phrases, clean and in noise, and noise alone, up to three seconds each."""
        rng = np.random.default_rng((1, seed))
        phrases = self._recordings[1]
        found = []
        for i, k in enumerate(rng.choice(len(phrases), n, replace=n > len(phrases))):
            part = phrases[k][:48000]
            sound = [part, mixed(part, rng, rng.uniform(0, 15)), noise(rng, len(part))][i % 3]
            found.append(chunks(sound))
        return found

    @functools.cached_property
    def _held_out(self) -> tuple[list[Feed], list[Feed]]:
        rng = np.random.default_rng(0)
        words = [s for s in self._recordings[0] if len(s) >= 4000]
        spoken = [chunks(s if i % 2 else mixed(s, rng, rng.uniform(0, 10))) for i, s in enumerate(words)]
        return spoken, [chunks(noise(rng, int(rng.integers(8000, 24000)))) for _ in spoken]

    def measures(self, model: Any) -> dict[str, float]:
        """Words against noise by the best chunk; how often a chunk is judged as by the original."""
        run, original = predictor(model), predictor(self.path())
        spoken, quiet = self._held_out
        scores = [[run(feed)[0] for feed in feeds] for feeds in (spoken, quiet)]
        wanted = np.concatenate([original(feed)[0] for feed in (*spoken, *quiet)])
        same = (np.concatenate([*scores[0], *scores[1]]) > 0.5) == (wanted > 0.5)
        best = [[float(np.max(s)) for s in rows] for rows in scores]
        return {"AUC": 100 * auc(*best), "chunk agreement": percent(same)}
