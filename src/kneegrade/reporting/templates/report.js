"use strict";
(() => {
  const LARGEST = 4.6 / 224; // radius of the largest point, in widths of the picture
  const SMALLEST = 1.1 / 224;
  const UNREAD = 0.8 / 224;

  const style = getComputedStyle(document.documentElement);
  const [against, neutral, favour] = ["--against", "--neutral", "--favour"].map((name) =>
    style.getPropertyValue(name).trim().match(/[0-9a-f]{2}/gi).map((pair) => parseInt(pair, 16)));

  /** Colour of a contribution: t = -1 fully against, 0 neutral, +1 fully for the grade. */
  const colour = (t) => {
    const end = t < 0 ? against : favour;
    return `rgb(${neutral.map((c, i) => Math.round(c + (end[i] - c) * Math.abs(t))).join(" ")})`;
  };

  const signed = (value, digits) => (value < 0 ? "−" : "+") + Math.abs(value).toFixed(digits);

  /** Sets colour and size of one point; `value` is its contribution, null if the grade does not read it. */
  const stylePoint = (circle, value, top, width) => {
    const t = value === null || top === 0 ? 0 : value / top;
    const isRead = value !== null;
    const radius = isRead ? SMALLEST + (LARGEST - SMALLEST) * Math.sqrt(Math.abs(t)) : UNREAD;
    circle.setAttribute("r", (width * radius).toFixed(2));
    circle.style.fill = isRead ? colour(t) : "none";
    circle.classList.toggle("unread", !isRead);
    const i = Number(circle.dataset.i);
    const bone = i < 37 ? `femur, point ${i}` : `tibia, point ${i - 37}`;
    circle.querySelector("title").textContent = isRead ? `${bone}: ${signed(value, 3)}` : `${bone}: not read for this grade`;
  };

  /** Shows the contributions of the points of one knee to the grade of `radio`. */
  const show = (knee, contributions, circles, radio) => {
    const { values, sum } = contributions[radio.value];
    const top = Math.max(0, ...values.map(Math.abs));
    const width = knee.querySelector(".overlay").viewBox.baseVal.width;
    circles.forEach((circle, i) => stylePoint(circle, values[i], top, width));
    const rank = (i) => (values[i] === null ? -1 : Math.abs(values[i]));
    const order = circles.map((_, i) => i).sort((a, b) => rank(b) - rank(a)); // small points stay on top
    knee.querySelector(".points").append(...order.map((i) => circles[i]));
    knee.querySelector(".chosen").textContent = radio.dataset.words;
    const digits = top < 0.1 ? 3 : 2;
    knee.querySelector(".low").textContent = signed(-top, digits);
    knee.querySelector(".high").textContent = signed(top, digits);
    knee.querySelectorAll(".terms td").forEach((cell) => { cell.textContent = signed(sum[cell.dataset.term], 3); });
    const outside = knee.querySelector(".outside");
    outside.hidden = !sum.outside;
    outside.textContent = `Points outside the crop contribute ${signed(sum.outside, 3)} to femur and tibia.`;
    knee.querySelectorAll("tr[data-target]").forEach((row) =>
      row.classList.toggle("is-shown", row.dataset.target === radio.value));
  };

  /** Connects the grade selector of one knee and shows the selected grade. */
  const connectSelector = (knee) => {
    const contributions = JSON.parse(knee.querySelector(".contributions").textContent);
    const circles = [...knee.querySelectorAll("circle")];
    circles.forEach((circle) => circle.append(document.createElementNS(circle.namespaceURI, "title")));
    const radios = [...knee.querySelectorAll(".selector input")];
    radios.forEach((radio) => radio.addEventListener("change", () => show(knee, contributions, circles, radio)));
    show(knee, contributions, circles, radios.find((radio) => radio.checked) ?? radios[0]);
  };

  /** Activates the controls of one knee. */
  const activate = (knee) => {
    if (knee.querySelector(".contributions")) connectSelector(knee);
    knee.querySelectorAll(".toggles input").forEach((box) => {
      const apply = () => knee.querySelector(".overlay").classList.toggle(`no-${box.value}`, !box.checked);
      box.addEventListener("change", apply);
      apply();
    });
  };

  /** Makes the search field hide the films whose rows do not contain its text. */
  const filter = (input) => {
    const films = [...document.querySelectorAll(".film-rows")];
    const texts = films.map((film) => film.textContent.toLowerCase());
    input.addEventListener("input", () => {
      const wanted = input.value.trim().toLowerCase();
      films.forEach((film, i) => { film.hidden = !texts[i].includes(wanted); });
      const left = films.filter((film) => !film.hidden).length;
      document.getElementById("filter-count").textContent = wanted ? `${left} of ${films.length} films` : "";
    });
    input.closest("label").hidden = false;
  };

  const inactive = new Set([...document.querySelectorAll(".knee")].filter((knee) => knee.querySelector(".view")));
  const activateOnce = (knee) => { if (inactive.delete(knee)) activate(knee); };
  const near = new IntersectionObserver(
    (entries) => entries.forEach((entry) => { if (entry.isIntersecting) { near.unobserve(entry.target); activateOnce(entry.target); } }),
    { rootMargin: "1500px" },
  ); // a report may have hundreds of knees: each is activated when it comes near the window, and all before printing
  inactive.forEach((knee) => near.observe(knee));
  addEventListener("beforeprint", () => [...inactive].forEach(activateOnce));

  const input = document.getElementById("filter");
  if (input) filter(input);
  document.documentElement.classList.add("ready");
})();
