// Reads a binary frame of traces (layout in console/wire.py). Pure.

/** What a frame holds, or null if it is none: times in milliseconds since the stream of the source began. */
export function readFrame(buffer) {
  const view = new DataView(buffer);
  if (view.byteLength < 4 || view.getUint8(0) !== 2) return null;
  const size = view.getUint16(2, true);
  if (view.byteLength < 4 + size) return null;
  const head = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, size)));
  let at = 4 + size;
  const waves = [];
  for (const { n, k, u, r, t, c, g, z, s, q } of head.w) {
    if (at + c * 2 > view.byteLength) return null;
    waves.push({ name: n, kind: k, unit: u, rate: r, start: t * 1000, gain: g, offset: z, state: s, quality: q, samples: new Int16Array(buffer, at, c) });
    at += c * 2;
  }
  return { source: head.d, lead: head.lead, offers: head.o, beats: head.b.map((seconds) => seconds * 1000), waves };
}
