// How an outline follows the points that a reader moves; the same computation as anatomy/shape_following.py.

import { ask } from "./api.js";

const N = 74;
const NOISE_SD_MM = 0.05;
let covariance = null; // (74, 74, 2, 2) in mm², in the frame of the shape model

export const loadShape = async () => {
  covariance ??= new Float32Array(await (await ask("/v1/shape")).arrayBuffer());
};

const multiply = ([a, b, c, d], [x, y]) => [a * x + b * y, c * x + d * y];

const inverse = ([a, b, c, d]) => {
  const det = a * d - b * c;
  return [d / det, -b / det, -c / det, a / det];
};

/** Lower triangular factor of a symmetric positive matrix (n, n). */
const cholesky = (matrix, n) => {
  const factor = new Float64Array(n * n);
  for (let i = 0; i < n; i++) {
    for (let j = 0; j <= i; j++) {
      let sum = matrix[i * n + j];
      for (let k = 0; k < j; k++) sum -= factor[i * n + k] * factor[j * n + k];
      factor[i * n + j] = i === j ? Math.sqrt(Math.max(sum, 1e-12)) : sum / factor[j * n + j];
    }
  }
  return factor;
};

const solve = (factor, n, right) => {
  const x = Float64Array.from(right);
  for (let i = 0; i < n; i++) {
    for (let k = 0; k < i; k++) x[i] -= factor[i * n + k] * x[k];
    x[i] /= factor[i * n + i];
  }
  for (let i = n - 1; i >= 0; i--) {
    for (let k = i + 1; k < n; k++) x[i] -= factor[k * n + i] * x[k];
    x[i] /= factor[i * n + i];
  }
  return x;
};

/** Moves points of one outline; `fixed` are those that the reader moved, the others follow. */
export class Follower {
  /**
   * @param {number[][]} points outline before any point was moved.
   * @param {number[][]} toFilm 2 × 2 matrix from mm of the shape model to pixels of the film.
   */
  constructor(points, toFilm) {
    this.points = points;
    this.toFilm = toFilm.flat();
    this.toModel = inverse(this.toFilm);
    this.fixed = new Map();
    this.indices = [];
  }

  /** Prepares moving point i. */
  grab(i) {
    if (!this.fixed.has(i)) this.fixed.set(i, this.points[i]);
    this.indices = [...this.fixed.keys()];
    const n = 2 * this.indices.length;
    const among = new Float64Array(n * n);
    this.indices.forEach((p, row) => this.indices.forEach((q, column) => {
      for (let a = 0; a < 2; a++) for (let b = 0; b < 2; b++) among[(2 * row + a) * n + 2 * column + b] = covariance[((p * N + q) * 2 + a) * 2 + b];
    }));
    for (let i2 = 0; i2 < n; i2++) among[i2 * n + i2] += NOISE_SD_MM ** 2;
    this.factor = cholesky(among, n);
  }

  /** The outline with point i at `place`. */
  moved(i, place) {
    this.fixed.set(i, place);
    const n = 2 * this.indices.length;
    const shifts = new Float64Array(n);
    this.indices.forEach((p, row) => {
      const [x, y] = this.fixed.get(p);
      [shifts[2 * row], shifts[2 * row + 1]] = multiply(this.toModel, [x - this.points[p][0], y - this.points[p][1]]);
    });
    const weights = solve(this.factor, n, shifts);
    return this.points.map((point, j) => {
      if (this.fixed.has(j)) return this.fixed.get(j);
      let x = 0, y = 0;
      this.indices.forEach((p, row) => {
        const at = (j * N + p) * 4;
        x += covariance[at] * weights[2 * row] + covariance[at + 1] * weights[2 * row + 1];
        y += covariance[at + 2] * weights[2 * row] + covariance[at + 3] * weights[2 * row + 1];
      });
      const [dx, dy] = multiply(this.toFilm, [x, y]);
      return [point[0] + dx, point[1] + dy];
    });
  }
}
