// A series as a stack: its images, one after another, as if they were the frames of one item. Responsible for which image
// stands where and for what is known of each; a pane shows them.

const REST_MS = 180; // an image that is only scrolled past is not asked about

export class Stack {
  /** `ids` in their order, `data` of the one that the page is of. */
  constructor(ids, data, onKnown) {
    this.ids = ids;
    this.home = Math.max(0, ids.indexOf(data.id));
    this.known = new Map([[data.id, data]]);
    this.onKnown = onKnown;
  }

  get size() { return this.ids.length; }

  place(index) { return { id: this.ids[index], frame: 0 }; }

  /** What is known of an image; nothing before it was asked. */
  data(index) { return this.known.get(this.ids[index]); }

  /** What the AI says, as far as it is known, at the places of the images. */
  get found() {
    return [...this.known].flatMap(([id, data]) => data.found.filter((one) => one.frame === 0).map((one) => ({ ...one, frame: this.ids.indexOf(id) })));
  }

  /** Ask what is known of an image, once somebody rests on it. */
  rest(index) {
    clearTimeout(this.timer);
    const id = this.ids[index];
    if (this.known.has(id)) return;
    this.timer = setTimeout(async () => {
      const answer = await fetch(`/api/items/${encodeURIComponent(id)}/viewer`, { cache: "no-store" }).catch(() => null);
      if (!answer?.ok) return;
      this.known.set(id, await answer.json());
      this.onKnown(index);
    }, REST_MS);
  }
}

/** The series of an item as a stack; null if it is alone, a loop, or nobody answers. */
export async function stackOf(data, onKnown) {
  if (!data.series || data.frames > 1) return null;
  const answer = await fetch(`/api/items/${encodeURIComponent(data.id)}/series`, { cache: "no-store" }).catch(() => null);
  const ids = answer?.ok ? (await answer.json()).images : [];
  return ids.length > 1 && ids.includes(data.id) ? new Stack(ids, data, onKnown) : null;
}
