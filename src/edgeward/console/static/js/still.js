// Whether somebody is pointing at the page. Responsible for that alone: what would move the rest of the page waits until
// nobody does, or a press meant for one thing is let go over another, and does nothing.

const REST_MS = 3000; // longer than from aiming to pressing; a pointer that is left lying holds nothing
const PRESS_MS = 30000; // a press that ends outside the window is not told of
let [last, place, pressed] = [-REST_MS, "", false];

/** A pointer moves or presses. (The browser also tells of one when what is under it moves.) */
function point(event) {
  const now = `${event.clientX} ${event.clientY}`;
  if (event.type === "pointermove" && now === place) return;
  [last, place] = [performance.now(), now];
  pressed = event.type === "pointerdown" || (event.type === "pointermove" && event.buttons > 0);
}

for (const what of ["pointermove", "pointerdown", "pointerup", "pointercancel"]) addEventListener(what, point, { capture: true, passive: true });

/** Whether the page may move: nobody presses, and nobody pointed lately. */
export const still = () => performance.now() - last >= (pressed ? PRESS_MS : REST_MS);
