/**
 * The colour of each optimizer, the same as in every figure (api/figures/theme.py has the same table).
 */

const COLOURS = {
  sgd: "#2d7fc4",
  momentum: "#4fb3e8",
  nesterov: "#12a37b",
  adamw: "#e09a10",
  muon: "#dd5f1a",
  adagrad: "#cc79a7",
  rmsprop: "#8f7ad6",
  adam: "#a0833c",
  amsgrad: "#7f8f3a",
  nadam: "#c2504f",
  nadamw: "#5f9ea0",
  ademamix: "#9a9a9a",
  lion: "#cc79a7",
  signum: "#8f7ad6",
  adafactor: "#a0833c",
  lamb: "#7f8f3a",
  lars: "#c2504f",
  schedule_free_sgd: "#5f9ea0",
  schedule_free_adamw: "#9a9a9a",
  prodigy: "#cc79a7",
  scion: "#8f7ad6",
  shampoo: "#a0833c",
  soap: "#7f8f3a",
  psgd_kron: "#c2504f",
  steepest: "#5f9ea0",
  gd: "#9a9a9a",
  gd_exact: "#cc79a7",
  gd_armijo: "#8f7ad6",
  gd_wolfe: "#a0833c",
  coordinate_descent: "#7f8f3a",
  bfgs: "#c2504f",
  lbfgs: "#5f9ea0",
  newton_cg: "#9a9a9a",
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
