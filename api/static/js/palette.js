/**
 * The colour of each optimizer, the same as in every figure (api/figures/theme.py holds the same table).
 */

const COLOURS = {
  sgd: "#2d7fc4",
  momentum: "#4fb3e8",
  nesterov: "#12a37b",
  adamw: "#e09a10",
  muon: "#dd5f1a",
};

const OTHER_COLOURS = ["#cc79a7", "#8f7ad6", "#a0833c", "#7f8f3a", "#c2504f", "#5f9ea0", "#9a9a9a"];

/**
 * @param {string} optimizer
 * @returns {string} its colour, `#rrggbb`
 */
export function colour(optimizer) {
  if (Object.hasOwn(COLOURS, optimizer)) return COLOURS[optimizer];
  const sum = [...optimizer].reduce((total, letter) => total + letter.codePointAt(0), 0);
  return OTHER_COLOURS[sum % OTHER_COLOURS.length];
}
