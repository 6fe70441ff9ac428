// Whether somebody is pointing. Responsible for that alone: what would move a part of the page waits until nobody points
// there, or a press meant for one thing is let go over another, and does nothing.

const REST_MS = 3000; // longer than from aiming to pressing; a pointer that is left lying holds nothing
const PRESS_MS = 30000; // a press that ends outside the window is not told of

/** Watch a part of the page; return a function that says for how many ms it has to stay where it is (0 or less: not). */
export function watch(part) {
  let [last, place, pressed] = [-REST_MS, "", false];
  // A pointer moves or presses. (The browser also tells of one when what is under it moves.)
  const point = (event) => {
    const now = `${event.clientX} ${event.clientY}`;
    if (event.type === "pointermove" && now === place) return;
    [last, place] = [performance.now(), now];
    pressed = event.type === "pointerdown" || (event.type === "pointermove" && event.buttons > 0);
  };
  for (const what of ["pointermove", "pointerdown", "pointerup", "pointercancel"]) part.addEventListener(what, point, { capture: true, passive: true });
  return () => last + (pressed ? PRESS_MS : REST_MS) - performance.now();
}
