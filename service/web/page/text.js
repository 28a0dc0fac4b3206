// Numbers as text.

/** Return a fraction as text, never rounded up to certainty. */
export function percent(fraction) {
  let text = (100 * fraction).toFixed(1);
  if (fraction > 0.999 && fraction < 1) text = ">\u00a099.9";
  if (fraction > 0 && fraction < 0.001) text = "<\u00a00.1";
  return `${text}\u00a0%`;
}

/** Return a whole number with separators. */
export function count(number) {
  return number.toLocaleString("en");
}

/** Return half the width of a share's 95 % interval, measured on a number of images. */
export function plusMinus(share, images) {
  return percent(1.96 * Math.sqrt((share * (1 - share)) / images));
}

/** Return a duration in seconds as text. */
export function duration(seconds) {
  if (seconds < 90) return `${Math.ceil(seconds)} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}
