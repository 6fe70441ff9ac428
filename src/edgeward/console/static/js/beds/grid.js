// How many columns of tiles fit a wall best. Pure: numbers in, numbers out.

const GAP = 6;
const ASPECT = 1.9; // a tile's width by its height at which trace and numbers are both legible
const LEAST = { width: 196, height: 88 }; // below this a value cannot be read from an arm's length

/** Columns and height of tiles so that `count` of them fill the room with the largest possible tiles. */
export function columnsFor(count, width, room) {
  let best = { columns: 1, height: LEAST.height, size: 0 };
  for (let columns = 1; columns <= Math.min(count, 16); columns += 1) {
    const rows = Math.ceil(count / columns);
    const w = (width - GAP * (columns - 1)) / columns;
    const h = (room - GAP * (rows - 1)) / rows;
    const size = Math.min(w, h * ASPECT); // the width of the tile of right proportions that fits
    if (size > best.size) best = { columns, height: h, size };
  }
  // One or two beds need no tiles as tall as the screen, and more beds than fit are scrolled rather than crushed.
  const tall = Math.min(best.height, (width / best.columns) / 1.35);
  return { columns: best.columns, height: Math.floor(Math.max(LEAST.height, tall)) };
}

/** How many tiles fit at all. */
columnsFor.most = (width, room) => {
  const columns = Math.max(1, Math.floor((width + GAP) / (LEAST.width + GAP)));
  const rows = Math.max(1, Math.floor((room + GAP) / (LEAST.height + GAP)));
  return Math.max(4, Math.min(64, columns * rows));
};
