// Plays bursts by Web Audio. Responsible for turning pulses into sound at the right times, and for telling whether the
// browser lets this page sound at all. Works on any BaseAudioContext, so that a test can listen to what it would play.

import { HARMONICS, RISE, burst, period } from "./burst.js";

const LEAD_S = 0.06;
const AHEAD_S = 1.2; // a page in the background is woken once a second only

/** Schedule one pulse on `context`, its 90 % level reached at `at`. */
export function schedulePulse(context, target, pulse, at) {
  // The spectrum is made to measure: harmonics above 4 kHz would only be shrill.
  const count = Math.max(4, Math.min(HARMONICS.length, Math.floor(4000 / pulse.frequency)));
  const imaginary = new Float32Array([0, ...HARMONICS.slice(0, count)]);
  const wave = context.createPeriodicWave(new Float32Array(imaginary.length), imaginary);
  const oscillator = new OscillatorNode(context, { frequency: pulse.frequency, periodicWave: wave });
  const gain = new GainNode(context, { gain: 0 });
  const ramp = (RISE * pulse.duration) / 0.8; // a straight line from 0: 10 to 90 % of it are the rise
  const begin = at - 0.9 * ramp;
  const end = at + pulse.duration - 0.1 * ramp;
  gain.gain.setValueAtTime(0, begin);
  gain.gain.linearRampToValueAtTime(pulse.volume, begin + ramp);
  gain.gain.setValueAtTime(pulse.volume, end);
  gain.gain.linearRampToValueAtTime(0, end + ramp);
  oscillator.connect(gain).connect(target);
  oscillator.start(begin);
  oscillator.stop(end + ramp + 0.01);
  return oscillator;
}

/** Schedule a whole burst; the oscillators are returned, so that it can be cut short. */
export const scheduleBurst = (context, target, kind, at) => burst(kind).map((pulse) => schedulePulse(context, target, pulse, at + pulse.at));

const STALLED_MS = 3000;

export class Player {
  constructor({ onState = () => {} } = {}) {
    this.kind = "";
    this.onState = onState;
    this.playing = [];
    this.next = 0;
    this.volume = 1;
    this.heard = -1; // the clock of the sound when it was looked at last
    this.moved = this.looked = performance.now();
  }

  /** Whether this page sounds: "running", "blocked" by the browser, "stalled" where its clock stands still although the
   *  browser says that it runs (a loudspeaker that was unplugged), or "none" where there is no Web Audio. */
  get state() {
    if (!globalThis.AudioContext) return "none";
    if (this.context?.state !== "running") return "blocked";
    return performance.now() - this.moved > STALLED_MS ? "stalled" : "running";
  }

  /** Look whether sound goes on. To be called several times a second. */
  look() {
    const at = this.context?.currentTime ?? 0;
    const now = performance.now();
    // A page that was not looked at for long, or slept, has no right to call its sound dead.
    if (at !== this.heard || this.context?.state !== "running" || now - this.looked > STALLED_MS / 2) this.moved = now;
    this.heard = at;
    this.looked = now;
  }

  /** Try to sound; browsers allow it after a click or a key (autoplay policy). */
  async enable() {
    if (!globalThis.AudioContext) { this.onState(this.state); return; }
    if (!this.context) {
      this.context = new AudioContext({ latencyHint: "interactive" });
      this.master = new GainNode(this.context, { gain: this.volume * 0.5 });
      const limiter = new DynamicsCompressorNode(this.context, { threshold: -6, ratio: 12 });
      this.master.connect(limiter).connect(this.context.destination);
      this.context.onstatechange = () => this.onState(this.state);
    }
    // A refusal leaves the promise open until somebody clicks, so nothing waits for it.
    this.context.resume().then(() => this.onState(this.state), () => this.onState(this.state));
    this.onState(this.state);
  }

  louder(volume) {
    this.volume = volume;
    if (this.master) this.master.gain.setTargetAtTime(volume * 0.5, this.context.currentTime, 0.02);
  }

  /** Sound `kind` from now on; "" is silence. The same kind goes on, another one begins at once. */
  sound(kind) {
    if (kind === this.kind) { this.ahead(); return; }
    this.kind = kind;
    this.cut();
    this.next = this.context ? this.context.currentTime + LEAD_S : 0;
    this.ahead();
  }

  cut() {
    for (const oscillator of this.playing) { try { oscillator.stop(); } catch (error) { if (error.name !== "InvalidStateError") throw error; } }
    this.playing = [];
  }

  /** Schedule what is due within the next second. To be called at least that often. */
  ahead() {
    if (!this.kind || this.state !== "running") return;
    const now = this.context.currentTime;
    if (this.next < now) this.next = now + LEAD_S;
    if (this.next > now + AHEAD_S) return;
    this.playing = scheduleBurst(this.context, this.master, this.kind, this.next);
    this.next += period(this.kind);
  }

  /** One burst, to hear whether the loudspeaker works. */
  test(kind) {
    if (this.state === "running") scheduleBurst(this.context, this.master, kind, this.context.currentTime + LEAD_S);
  }
}
