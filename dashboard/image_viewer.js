// One image, or two under a slider: left of the line is the first, right of it the second.

export default function (component) {
  const { parentElement, data } = component;
  const root = parentElement.querySelector(".viewer");
  if (root.dataset.key === data.key) return; // a rerun of the page changes nothing here
  root.dataset.key = data.key;
  root.replaceChildren();

  const stage = element("div", "stage");
  const images = data.images.map(({ name, uri }) => {
    const image = element("img");
    image.src = uri;
    image.alt = name;
    image.draggable = false;
    return image;
  });
  stage.append(...images);
  const scroll = element("div", "scroll");
  scroll.append(stage);
  root.append(scroll);

  const tools = element("div", "tools");
  const native = element("button");
  native.type = "button";
  native.textContent = "Native size";
  native.addEventListener("click", () => resize(native.getAttribute("aria-pressed") !== "true"));
  if (images.length > 1) tools.append(...slider());
  tools.append(native);
  root.append(tools);
  resize(false);

  function slider() {
    const line = element("div", "line");
    stage.append(line);
    const range = element("input");
    range.type = "range";
    range.min = 0;
    range.max = 100;
    range.step = 0.5;
    range.value = 50;
    range.setAttribute("aria-label", `From ${data.images[0].name} to ${data.images[1].name}`);
    const names = data.images.map(({ name }, i) => {
      const label = element("span", i ? "right" : "left");
      label.textContent = name;
      return label;
    });
    const move = () => {
      images[1].style.clipPath = `inset(0 0 0 ${range.value}%)`;
      line.style.left = `${range.value}%`;
    };
    const follow = (event) => {
      const box = stage.getBoundingClientRect();
      range.value = (100 * (event.clientX - box.left)) / box.width;
      move();
    };
    stage.addEventListener("pointerdown", (event) => {
      stage.setPointerCapture(event.pointerId);
      follow(event);
    });
    stage.addEventListener("pointermove", (event) => event.buttons && follow(event));
    range.addEventListener("input", move);
    move();
    return [names[0], range, names[1]];
  }

  function resize(one) {
    native.setAttribute("aria-pressed", String(one));
    // Small images grow by whole pixels.
    const times = one ? 1 : Math.max(1, Math.floor(512 / Math.max(data.width, data.height)));
    stage.style.width = `${data.width * times}px`;
    stage.style.aspectRatio = `${data.width} / ${data.height}`;
    stage.classList.toggle("fit", !one);
    stage.classList.toggle("pixels", times > 1);
  }
}

function element(name, style) {
  const made = document.createElement(name);
  if (style) made.className = style;
  return made;
}
