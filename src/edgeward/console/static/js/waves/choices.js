// What a viewer chose for the traces of beds: speed, gain, leads. Kept in this browser, for each account by itself.

import { byLead } from "./kinds.js";

export const SPEEDS = [6.25, 12.5, 25, 50];
export const GAINS = [5, 10, 20, 40];
const BEDS = 64; // beds whose leads are remembered
const key = () => `waves:${document.documentElement.dataset.user ?? ""}`;

function read() {
  try { return JSON.parse(localStorage.getItem(key())) ?? {}; } catch { return {}; }
}

export class Choices {
  constructor(bed) {
    const kept = read();
    this.bed = bed;
    this.speed = SPEEDS.includes(kept.speed) ? kept.speed : 25;
    this.gain = GAINS.includes(kept.gain) ? kept.gain : 10;
    this.twelve = kept.twelve === true;
    const names = (list) => (Array.isArray(list) ? list.filter((name) => typeof name === "string") : []);
    this.own = names(kept.beds?.[bed]); // leads chosen for this bed
    this.usual = names(kept.usual); // and for the bed before
  }

  keep() {
    const beds = Object.entries(read().beds ?? {}).filter(([bed]) => bed !== this.bed).slice(1 - BEDS);
    if (this.own.length) beds.push([this.bed, this.own]);
    const { speed, gain, twelve, usual } = this;
    localStorage.setItem(key(), JSON.stringify({ speed, gain, twelve, usual, beds: Object.fromEntries(beds) }));
  }

  /** Leads to show, of those that the bed has: those chosen here, else those chosen last, else the one it is read from. */
  leads(offered, leading) {
    for (const wish of [this.own, this.usual]) {
      const found = wish.filter((name) => offered.includes(name));
      if (found.length) return found.sort(byLead);
    }
    return offered.includes(leading) ? [leading] : offered.slice(0, 1);
  }

  /** Show a lead, or no longer; the last one stays. */
  toggle(name, shown) {
    const next = shown.includes(name) ? shown.filter((one) => one !== name) : [...shown, name].sort(byLead);
    if (next.length) this.own = this.usual = next;
    this.keep();
  }

  only(name) { this.own = this.usual = [name]; this.keep(); }
}
