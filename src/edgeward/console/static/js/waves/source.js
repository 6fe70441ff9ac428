// What one source sends, on one clock: its traces, its beats, and which moment is shown now. Not responsible for drawing.

import { Playout } from "../playout.js";
import { Track } from "./track.js";

const TICKS = 1000; // the clock counts milliseconds
const FIRST_MS = 1000; // of what comes at the beginning only the last packet is new: the rest was waiting

export class Source {
  /** `keepS`: how long traces are kept, for redrawing. */
  constructor({ keepS = 30, onBeat = () => {}, onTracks = () => {} } = {}) {
    this.playout = new Playout();
    this.keepS = keepS;
    this.onBeat = onBeat;
    this.onTracks = onTracks;
    this.clear();
  }

  clear() {
    this.playout.reset();
    this.tracks = new Map();
    this.offers = [];
    this.lead = "";
    this.beats = [];
    this.lastBeat = -Infinity;
    this.heardAt = null;
    this.turn = (this.turn ?? 0) + 1; // changes when the past is void
  }

  get begun() { return this.playout.rate > 0; }

  /** Take what came. Beginning anew, the source forgets what was. */
  take(frame, now) {
    const filled = frame.waves.filter((wave) => wave.rate > 0 && Number.isFinite(wave.start));
    const end = Math.max(...filled.map((wave) => wave.start + (wave.samples.length / wave.rate) * 1000));
    let start = Math.min(...filled.filter((wave) => wave.samples.length).map((wave) => wave.start));
    if (filled.some((wave) => wave.start < (this.tracks.get(wave.name)?.end ?? 0) - 1500)) this.clear();
    if (Number.isFinite(start)) {
      this.heardAt = now;
      if (!this.begun) start = Math.max(start, end - FIRST_MS);
      if (!this.playout.take(start, end - start, TICKS, now) && this.tracks.size) {
        this.clear();
        this.heardAt = now;
        this.playout.take(Math.max(start, end - FIRST_MS), Math.min(end - start, FIRST_MS), TICKS, now);
      }
    }
    let anew = false;
    for (const wave of filled) {
      let track = this.tracks.get(wave.name);
      if (!track?.fits(wave)) { this.tracks.set(wave.name, (track = new Track(wave, this.keepS))); anew = true; }
      track.take(wave);
    }
    for (const beat of frame.beats) if (beat > this.lastBeat) { this.beats.push(beat); this.lastBeat = beat; }
    const key = JSON.stringify([frame.lead, frame.offers]);
    this.lead = frame.lead;
    this.offers = frame.offers.length ? frame.offers : [...this.tracks.values()].map((track) => [track.name, track.kind]);
    if (anew || key !== this.key) { this.key = key; this.onTracks(); }
  }

  /** The moment shown now; tells of beats that it passes. */
  position(now) {
    const at = this.playout.position(now);
    while (this.beats.length && this.beats[0] <= at) if (at - this.beats.shift() < 1000) this.onBeat();
    return at;
  }

  /** Milliseconds since anything came. */
  silence(now) { return this.heardAt === null ? Infinity : now - this.heardAt; }
}
