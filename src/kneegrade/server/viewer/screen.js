// Draws 16-bit grey with a window: on the graphics card (WebGL2), or on a 2D canvas where there is none.

const VERTEX = `#version 300 es
uniform vec4 place; out vec2 at;
void main() { vec2 c = vec2(gl_VertexID & 1, gl_VertexID >> 1); at = c; gl_Position = vec4(place.xy + c * place.zw, 0, 1); }`;

const FRAGMENT = `#version 300 es
precision highp float; precision highp int; precision highp usampler2D;
uniform usampler2D film; uniform vec2 range; uniform bool inverted; in vec2 at; out vec4 colour;
float grey(ivec2 p) { return float(texelFetch(film, clamp(p, ivec2(0), textureSize(film, 0) - 1), 0).r); }
void main() {
  vec2 p = at * vec2(textureSize(film, 0)) - 0.5; ivec2 i = ivec2(floor(p)); vec2 f = fract(p);
  float v = mix(mix(grey(i), grey(i + ivec2(1, 0)), f.x), mix(grey(i + ivec2(0, 1)), grey(i + ivec2(1, 1)), f.x), f.y);
  float t = clamp((v - range.x) / (range.y - range.x), 0.0, 1.0);
  colour = vec4(vec3(inverted ? 1.0 - t : t), 1);
}`;

/** The film, and the film at half, a quarter … of its size, by averages of four pixels. */
export const pyramid = (grey, width, height) => {
  const levels = [{ grey, width, height }];
  while (Math.min(levels.at(-1).width, levels.at(-1).height) > 400) {
    const { grey: g, width: w, height: hgt } = levels.at(-1);
    const halfW = w >> 1, halfH = hgt >> 1, half = new Uint16Array(halfW * halfH);
    for (let y = 0, out = 0; y < halfH; y++) {
      let a = 2 * y * w, b = a + w;
      for (let x = 0; x < halfW; x++, a += 2, b += 2) half[out++] = (g[a] + g[a + 1] + g[b] + g[b + 1] + 2) >> 2;
    }
    levels.push({ grey: half, width: halfW, height: halfH });
  }
  return levels;
};

/** The level whose pixels are not smaller than half a pixel of the screen. */
const levelFor = (levels, scale) => {
  let level = 0;
  while (level + 1 < levels.length && scale * 2 ** level < 0.6) level++;
  return level;
};

class GlScreen {
  constructor(canvas, gl) {
    this.canvas = canvas;
    this.gl = gl;
    this.limit = gl.getParameter(gl.MAX_TEXTURE_SIZE);
    this.textures = new Map();
    const program = gl.createProgram();
    for (const [kind, text] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, text);
      gl.compileShader(shader);
      gl.attachShader(program, shader);
    }
    gl.linkProgram(program);
    gl.useProgram(program);
    [this.place, this.range, this.inverted] = ["place", "range", "inverted"].map((name) => gl.getUniformLocation(program, name));
  }

  load(levels) {
    this.textures.forEach((texture) => this.gl.deleteTexture(texture));
    this.textures.clear();
    this.levels = levels;
  }

  texture(level) {
    const { gl } = this;
    if (!this.textures.has(level)) {
      const { grey, width, height } = this.levels[level];
      const texture = gl.createTexture();
      gl.bindTexture(gl.TEXTURE_2D, texture);
      gl.pixelStorei(gl.UNPACK_ALIGNMENT, 2);
      gl.texImage2D(gl.TEXTURE_2D, 0, gl.R16UI, width, height, 0, gl.RED_INTEGER, gl.UNSIGNED_SHORT, grey);
      for (const p of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) gl.texParameteri(gl.TEXTURE_2D, p, gl.NEAREST);
      this.textures.set(level, texture);
    }
    return this.textures.get(level);
  }

  show(view, grey) {
    const { gl, canvas } = this, ratio = devicePixelRatio, w = canvas.clientWidth, hgt = canvas.clientHeight;
    const pixels = [Math.max(1, Math.round(w * ratio)), Math.max(1, Math.round(hgt * ratio))];
    if (canvas.width !== pixels[0] || canvas.height !== pixels[1]) [canvas.width, canvas.height] = pixels;
    let level = levelFor(this.levels, view.k * ratio);
    while (Math.max(this.levels[level].width, this.levels[level].height) > this.limit && level + 1 < this.levels.length) level++;
    const size = this.levels[level], factor = 2 ** level;
    gl.viewport(0, 0, ...pixels);
    gl.clearColor(0, 0, 0, 1);
    gl.clear(gl.COLOR_BUFFER_BIT);
    gl.bindTexture(gl.TEXTURE_2D, this.texture(level));
    gl.uniform4f(this.place, (view.x / w) * 2 - 1, 1 - (view.y / hgt) * 2, (size.width * factor * view.k / w) * 2, -(size.height * factor * view.k / hgt) * 2);
    gl.uniform2f(this.range, grey.low, grey.high);
    gl.uniform1i(this.inverted, grey.inverted ? 1 : 0);
    gl.drawArrays(gl.TRIANGLE_STRIP, 0, 4);
  }
}

class CanvasScreen {
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d", { alpha: false });
  }

  load(levels) { this.levels = levels; }

  show(view, { low, high, inverted }) {
    const { canvas } = this, w = Math.max(1, canvas.clientWidth), hgt = Math.max(1, canvas.clientHeight);
    if (canvas.width !== w || canvas.height !== hgt) { canvas.width = w; canvas.height = hgt; }
    const level = levelFor(this.levels, view.k), size = this.levels[level], k = view.k * 2 ** level;
    const image = this.context.createImageData(w, hgt), out = new Uint32Array(image.data.buffer), factor = 255 / (high - low);
    const columns = Int32Array.from({ length: w }, (_, x) => Math.floor((x + 0.5 - view.x) / k));
    for (let y = 0, at = 0; y < hgt; y++) {
      const row = Math.floor((y + 0.5 - view.y) / k), inside = row >= 0 && row < size.height;
      for (let x = 0; x < w; x++, at++) {
        const column = columns[x];
        let v = 0;
        if (inside && column >= 0 && column < size.width) {
          v = Math.min(255, Math.max(0, (size.grey[row * size.width + column] - low) * factor)) | 0;
          if (inverted) v = 255 - v;
        }
        out[at] = 0xff000000 | (v << 16) | (v << 8) | v;
      }
    }
    this.context.putImageData(image, 0, 0);
  }
}

/** The screen of a canvas; `?canvas` in the address leaves out WebGL. */
export const screenOf = (canvas) => {
  const options = { antialias: false, alpha: false, preserveDrawingBuffer: true };
  const gl = new URLSearchParams(location.search).has("canvas") ? null : canvas.getContext("webgl2", options);
  return gl ? new GlScreen(canvas, gl) : new CanvasScreen(canvas);
};
