/**
 * The colour of each optimizer, the same as in every figure (api/figures/theme.py has the same table).
 */

const COLOURS = {
  sgd: "#2d7fc4",
  momentum: "#1c96d7",
  nesterov: "#12a079",
  adamw: "#be820e",
  muon: "#dd5f1a",
  adagrad: "#c972a2",
  rmsprop: "#8f7ad6",
  adam: "#a0833c",
  amsgrad: "#7f8f3a",
  nadam: "#c2504f",
  nadamw: "#5b989a",
  ademamix: "#8e8e8e",
  lion: "#c972a2",
  signum: "#8f7ad6",
  adafactor: "#a0833c",
  lamb: "#7f8f3a",
  lars: "#c2504f",
  schedule_free_sgd: "#5b989a",
  schedule_free_adamw: "#8e8e8e",
  prodigy: "#c972a2",
  scion: "#8f7ad6",
  shampoo: "#a0833c",
  soap: "#7f8f3a",
  psgd_kron: "#c2504f",
  steepest: "#5b989a",
  gd: "#8e8e8e",
  gd_exact: "#c972a2",
  gd_armijo: "#8f7ad6",
  gd_wolfe: "#a0833c",
  coordinate_descent: "#7f8f3a",
  bfgs: "#c2504f",
  lbfgs: "#5b989a",
  newton_cg: "#8e8e8e",
};

const OTHER_COLOURS = ["#c972a2", "#8f7ad6", "#a0833c", "#7f8f3a", "#c2504f", "#5b989a", "#8e8e8e"];

/**
 * @param {string} optimizer
 * @returns {string} its colour, `#rrggbb`
 */
export function colour(optimizer) {
  if (Object.hasOwn(COLOURS, optimizer)) return COLOURS[optimizer];
  const sum = [...optimizer].reduce((total, letter) => total + letter.codePointAt(0), 0);
  return OTHER_COLOURS[sum % OTHER_COLOURS.length];
}
