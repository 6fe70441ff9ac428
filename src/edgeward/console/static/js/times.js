// Times in the browser's own zone: 24 hours, the date only when it is not today. Date and zone stand in the title.

const two = (n) => String(n).padStart(2, "0");

/** The browser's distance from UTC at a moment: it changes in summer. */
export function offset(stamp) {
  const minutes = -stamp.getTimezoneOffset();
  const [hours, rest] = [Math.floor(Math.abs(minutes) / 60), Math.abs(minutes) % 60];
  return `UTC${minutes < 0 ? "−" : "+"}${hours}${rest ? `:${two(rest)}` : ""}`;
}

/** The browser's zone as people know it. */
export const zone = () => [Intl.DateTimeFormat().resolvedOptions().timeZone, offset(new Date())].filter(Boolean).join(", ");

export function localTime(stamp, form = "auto") {
  const day = `${stamp.getFullYear()}-${two(stamp.getMonth() + 1)}-${two(stamp.getDate())}`;
  const time = `${two(stamp.getHours())}:${two(stamp.getMinutes())}:${two(stamp.getSeconds())}`;
  if (form === "date") return day;
  const today = stamp.toDateString() === new Date().toDateString();
  if (form === "full") return `${day} ${time}`;
  if (form === "zoned") return `${day} ${time} ${offset(stamp)}`;
  return today ? time : `${day} ${time.slice(0, 5)}`;
}

/** Write every time element below `root` in local time. */
export function localise(root) {
  for (const element of root.querySelectorAll("time[datetime]")) {
    const stamp = new Date(element.dateTime);
    if (Number.isNaN(stamp.getTime())) continue;
    element.textContent = localTime(stamp, element.dataset.form);
    element.title = localTime(stamp, "zoned");
  }
}
