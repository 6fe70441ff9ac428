// Frames of one item, or of a series of items as if they were one: asked for, decoded, and kept in memory up to a limit while the page is open. Nothing is stored.

const CONCURRENT = 3;
const RETRIES = 4;
const MEGABYTE = 1024 * 1024;

/** How much memory the decoded frames of one item may take. */
export const budget = () => ((navigator.deviceMemory ?? 8) <= 4 ? 96 : 192) * MEGABYTE;

/** The gateway will not or cannot render; `message` is its reason. */
export class NoPicture extends Error {}

/** The window under which a picture was rendered; null for colour. Grey by a table (VOI LUT) has none either: until
    somebody sets one it counts as the whole range. */
function applied({ center, windowWidth, lowest, highest }) {
  if (center !== null) return { center, width: windowWidth };
  return lowest === 0 && highest === 255 ? null : { center: (lowest + highest + 1) / 2, width: highest - lowest + 1 };
}

export class Frames {
  constructor(itemId, limit = budget()) {
    this.place = (frame) => ({ id: itemId, frame }); // which item's frame it is
    this.limit = limit;
    this.bytes = 0;
    this.kept = new Map(); // key -> picture, the least recently used first
    this.asked = new Map(); // key -> promise
    this.waiting = [];
    this.running = 0;
    this.shown = null; // the image on the screen: never freed below it
  }

  #key(index, { center, width, max, form } = {}) { const { id, frame } = this.place(index); return [id, frame, center ?? "", width ?? "", max ?? 0, form ?? ""].join("|"); }

  has(frame, wish) { return this.kept.has(this.#key(frame, wish)); }

  peek(frame, wish) {
    const key = this.#key(frame, wish);
    const picture = this.kept.get(key);
    if (picture) { this.kept.delete(key); this.kept.set(key, picture); }
    return picture;
  }

  /** Return a promise of the picture: { image, facts, applied }. `urgent` ones go before those fetched ahead. */
  get(frame, wish = {}, urgent = true) {
    const known = this.peek(frame, wish);
    if (known) return Promise.resolve(known);
    const key = this.#key(frame, wish);
    const place = this.place(frame);
    if (!this.asked.has(key)) {
      this.asked.set(key, new Promise((resolve, reject) => {
        this.waiting[urgent ? "unshift" : "push"](() => this.#fetch(place, wish).then(resolve, reject));
      }).then((picture) => this.#keep(key, picture)).finally(() => this.asked.delete(key)));
      this.#next();
    }
    return this.asked.get(key);
  }

  #next() {
    while (this.running < CONCURRENT && this.waiting.length) {
      this.running += 1;
      this.waiting.shift()().finally(() => { this.running -= 1; this.#next(); });
    }
  }

  async #fetch({ id, frame }, { center, width, max, form }) {
    const query = new URLSearchParams();
    if (center !== undefined && center !== null) { query.set("center", center); query.set("width", width); }
    if (max) query.set("max", max);
    if (form) query.set("form", form);
    let answer;
    for (let attempt = 0; ; attempt += 1) {
      answer = await fetch(`/api/items/${id}/frames/${frame}?${query}`, { cache: "no-store", headers: { accept: "image/*, application/json" } });
      if (answer.status !== 503 || attempt === RETRIES) break;
      await new Promise((done) => { setTimeout(done, 200 * 2 ** attempt); }); // busy with more urgent work
    }
    if (answer.status === 401) { location.reload(); throw new NoPicture(""); }
    if (!answer.ok) throw new NoPicture((await answer.json().catch(() => ({}))).error ?? "");
    const facts = JSON.parse(answer.headers.get("x-picture"));
    const image = await createImageBitmap(await answer.blob(), { colorSpaceConversion: "none" });
    return { id, image, facts, applied: applied(facts) };
  }

  #keep(key, picture) {
    this.kept.set(key, picture);
    this.bytes += picture.image.width * picture.image.height * 4;
    for (const [old, { image }] of [...this.kept]) {
      if (this.bytes <= this.limit || old === key) break;
      this.kept.delete(old);
      this.bytes -= image.width * image.height * 4;
      if (image !== this.shown) image.close();
    }
    return picture;
  }
}

/** The JPEG of the analysed frame that the engine made: what there is when no frame can be rendered. */
export async function preview(itemId, data) {
  const answer = await fetch(`/images/${itemId}/frame.jpg`, { cache: "no-store" });
  if (!answer.ok) throw new NoPicture("");
  const image = await createImageBitmap(await answer.blob());
  const columns = data.columns || image.width;
  const rows = data.rows || image.height;
  const facts = {
    width: image.width, height: image.height, scale: image.width / columns, rows, columns, frame: data.frame, frames: 1, frameTime: 0,
    center: null, windowWidth: null, lowest: 0, highest: 255, spacing: data.spacing, spacingSource: data.spacingSource,
  };
  return { id: itemId, image, facts, applied: null };
}
