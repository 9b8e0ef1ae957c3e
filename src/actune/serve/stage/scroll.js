// Not scrollIntoView: it would scroll the page as well, and the stage out of sight.

/** Scroll a list so that one of its lines is seen, with a bit of what comes before it. */
export function reveal(line, list) {
  const top = line.offsetTop - list.offsetTop;
  const seen = top >= list.scrollTop && top + line.offsetHeight <= list.scrollTop + list.clientHeight;
  if (!seen) list.scrollTop = top - 24;
}
