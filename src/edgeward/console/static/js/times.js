// Times in the browser's own zone: 24 hours, the date only when it is not today. The ISO form stays in the title.

const two = (n) => String(n).padStart(2, "0");

export function localTime(stamp, form = "auto") {
  const day = `${stamp.getFullYear()}-${two(stamp.getMonth() + 1)}-${two(stamp.getDate())}`;
  const time = `${two(stamp.getHours())}:${two(stamp.getMinutes())}:${two(stamp.getSeconds())}`;
  if (form === "date") return day;
  const today = stamp.toDateString() === new Date().toDateString();
  if (form === "full") return `${day} ${time}`;
  return today ? time : `${day} ${time.slice(0, 5)}`;
}

/** Write every time element below `root` in local time. */
export function localise(root) {
  for (const element of root.querySelectorAll("time[datetime]")) {
    const stamp = new Date(element.dateTime);
    if (!Number.isNaN(stamp.getTime())) element.textContent = localTime(stamp, element.dataset.form);
  }
}
