// Labels one image at a time. The next images wait here, so that a key shows the next one at once;
// what was decided is sent in order, each with the cell that was on screen, until the server has it.

const AHEAD = 24; // images fetched before they are needed
const BACK = 3; // images kept for undo
const RETRY = [500, 1000, 2000, 5000]; // ms

// Outlives a visit of another page, so that nothing is lost while the last labels are on their way.
const sessions = (window.auditLabelSessions ??= new Map());

const HTML = `
  <div class="bar"><div class="fill"></div></div>
  <p class="progress"></p>
  <p class="problem" role="alert" hidden></p>
  <div class="work">
    <div class="frame"><p class="waiting">The image is loading …</p></div>
    <div class="choices" role="group">
      <p class="title"></p>
      <div class="classes"></div>
      <div class="tools"></div>
      <p class="hint" aria-live="polite"></p>
    </div>
  </div>
  <p class="finished" hidden></p>`;

function newSession(data) {
  return {
    page: crypto.randomUUID(), queue: [...data.queue], done: data.done, number: 0,
    history: [], pending: [], sending: false, problem: "", images: new Map(), shownAt: 0,
    shown: null, zoomed: false, told: false, refresh: () => {},
  };
}

export default function (component) {
  const { parentElement, data, setTriggerValue } = component;
  if (!sessions.has(data.key)) sessions.set(data.key, newSession(data));
  const s = sessions.get(data.key);
  const before = parentElement.auditLabeller;
  if (before?.key === data.key) return before.leave; // a rerun of the page changes nothing here
  before?.leave();

  const root = parentElement.querySelector(".labeller");
  root.innerHTML = HTML;
  const find = (name) => root.querySelector("." + name);
  const frame = find("frame");

  const tools = [
    { keys: ["z", "+"], shown: "Z", text: "zoom", act: zoom },
    { keys: ["arrowright"], shown: "→", text: "skip", act: skip },
    { keys: ["backspace", "arrowleft", "u"], shown: "⌫", text: "undo", act: undo },
  ];
  const keys = new Map();
  find("title").textContent = data.title;
  for (const { outcome, key } of data.choices) {
    const act = () => choose(outcome);
    if (key) keys.set(key.toLowerCase(), act);
    find("classes").append(button(outcome, key, act));
  }
  for (const tool of tools) {
    for (const key of tool.keys) keys.set(key, tool.act);
    find("tools").append(button(tool.text, tool.shown, tool.act));
  }

  function button(text, key, act) {
    const made = document.createElement("button");
    made.type = "button";
    const name = document.createElement("span");
    name.textContent = text;
    made.append(name);
    if (key) {
      const mark = document.createElement("kbd");
      mark.textContent = key;
      made.append(mark);
    }
    made.addEventListener("click", act);
    return made;
  }

  function address(cell, side) {
    return `/labels/image/${cell}?run=${encodeURIComponent(data.run)}&side=${side}`;
  }

  function fetched(cell) {
    if (!s.images.has(cell)) {
      const image = new Image();
      const held = { image, state: "loading", large: false };
      s.images.set(cell, held);
      load(cell, held, address(cell, data.sides[0]), 0);
    }
    return s.images.get(cell);
  }

  function load(cell, held, source, tries) {
    held.image.alt = "the image to label";
    held.image.dataset.cell = cell;
    held.image.src = source;
    held.image.decode().then(
      () => { held.state = "ready"; s.refresh(); },
      () => {
        if (tries < 3) {
          setTimeout(() => load(cell, held, `${source}&try=${tries + 1}`, tries + 1), RETRY[tries]);
        } else { held.state = "unreadable"; s.refresh(); }
      },
    );
  }

  function draw() {
    const cell = s.queue[0];
    for (const next of s.queue.slice(0, AHEAD)) fetched(next);
    const near = new Set([...s.queue.slice(0, AHEAD), ...s.history.slice(-BACK).map((h) => h.cell)]);
    for (const known of [...s.images.keys()]) if (!near.has(known)) s.images.delete(known);

    const unsaved = s.pending.length;
    const share = data.size ? s.done / data.size : 1;
    find("fill").style.width = `${100 * share}%`;
    find("progress").textContent =
      `${s.done.toLocaleString("en")} of ${data.size.toLocaleString("en")} labelled by ${data.labeller}`
      + (unsaved ? ` · saving ${unsaved} …` : s.number ? " · all saved" : "");
    find("problem").textContent = s.problem;
    find("problem").hidden = !s.problem;
    find("work").hidden = cell === undefined;
    find("finished").hidden = cell !== undefined || unsaved > 0;
    find("finished").textContent = data.finished;
    if (cell === undefined) {
      s.shown = null;
      if (!unsaved && !s.told) { s.told = true; setTriggerValue("finished", true); }
      return;
    }
    const held = s.images.get(cell);
    if (held.state === "ready") {
      frame.className = s.zoomed ? "frame zoomed" : "frame";
      if (s.shown !== cell || frame.firstElementChild !== held.image) {
        frame.replaceChildren(held.image);
        s.shown = cell;
        s.shownAt = performance.now();
      }
      if (s.zoomed && !held.large) {
        held.large = true;
        const large = new Image();
        large.src = address(cell, data.sides[1]);
        large.decode().then(() => { held.image.src = large.src; }, () => {});
      }
    } else {
      s.shown = null;
      const text = document.createElement("p");
      text.className = "waiting";
      text.textContent = held.state === "loading" ? "The image is loading …"
        : "This image cannot be read. Skip it: →";
      frame.replaceChildren(text);
    }
  }

  function hint(text) {
    find("hint").textContent = text;
  }

  function queueEvent(cell, outcome) {
    s.number += 1;
    s.pending.push({ number: s.number, cell, outcome });
    send();
  }

  // A decision is about the image that was on screen when the key went down, or about none.
  function unseen(when) {
    if (s.shown === null || s.shown !== s.queue[0] || when < s.shownAt) {
      hint("Not counted: the image was not on screen yet.");
      return true;
    }
    return false;
  }

  function choose(outcome) {
    const cell = s.shown;
    s.queue.shift();
    s.history.push({ cell, outcome });
    s.done += 1;
    s.zoomed = false;
    hint(outcome);
    queueEvent(cell, outcome);
    draw();
  }

  function skip() {
    if (s.queue.length < 2) { hint("This is the last one."); return; }
    const cell = s.queue.shift();
    s.queue.push(cell);
    s.history.push({ cell, outcome: null });
    s.zoomed = false;
    hint("skipped: it comes again at the end");
    draw();
  }

  function undo() {
    const last = s.history.pop();
    if (!last) { hint("Nothing to undo."); return; }
    s.queue = [last.cell, ...s.queue.filter((c) => c !== last.cell)];
    s.zoomed = false;
    s.told = false;
    if (last.outcome === null) {
      hint("back");
    } else {
      s.done -= 1;
      hint(`taken back: ${last.outcome}`);
      queueEvent(last.cell, "");
    }
    draw();
  }

  function zoom() {
    s.zoomed = !s.zoomed;
    draw();
  }

  async function send() {
    if (s.sending) return;
    s.sending = true;
    for (let tries = 0; s.pending.length; ) {
      const events = s.pending.slice(0, 100);
      const { run, attribute, labeller } = data;
      let answer = null;
      let told = {};
      try {
        answer = await fetch("/labels/events", {
          method: "POST",
          keepalive: true, // goes on when the tab is closed
          headers: { "content-type": "application/json" },
          body: JSON.stringify({ run, attribute, labeller, page: s.page, events }),
        });
        told = await answer.json().catch(() => ({}));
      } catch { /* the server cannot be reached: tried again below */ }
      if (answer?.ok) {
        s.pending = s.pending.filter((e) => e.number > told.written);
        s.problem = "";
        tries = 0;
      } else if (answer && [400, 413, 422].includes(answer.status)) {
        // Refused for good: the images come back, so that nothing counts as labelled that is not.
        const cells = [...new Set(events.map((e) => e.cell))];
        s.pending = s.pending.slice(events.length);
        s.history = s.history.filter((h) => !cells.includes(h.cell));
        s.done -= cells.filter((c) => !s.queue.includes(c)).length;
        s.queue = [...cells, ...s.queue.filter((c) => !cells.includes(c))];
        s.problem = `Not kept: ${told.problem ?? answer.statusText}`;
      } else {
        const why = !answer ? "the dashboard does not answer"
          : answer.status === 403 ? "the dashboard was started again: open its new address"
          : told.problem ?? `the dashboard answered ${answer.status}`;
        s.problem = `Not saved yet: ${why}. Trying again; leave this page open.`;
        s.refresh();
        await new Promise((later) => setTimeout(later, RETRY[Math.min(tries++, RETRY.length - 1)]));
      }
      s.refresh();
    }
    s.sending = false;
    s.refresh();
  }

  function typing(target) {
    return target instanceof Element
      && target.closest("input, textarea, select, [contenteditable=true], [role=listbox]") !== null;
  }

  function pressed(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || typing(event.composedPath()[0])) return;
    const act = keys.get(event.key.toLowerCase());
    if (!act || s.queue.length === 0 && act !== undo) return;
    event.preventDefault();
    event.stopPropagation();
    if (event.repeat) return; // a key that is held down labels one image
    if (act !== undo && act !== skip && unseen(event.timeStamp)) return;
    act();
  }

  function leaving(event) {
    if (s.pending.length) event.preventDefault();
  }

  // Clicks pass the same check as keys.
  root.addEventListener("click", (event) => {
    const inside = event.target instanceof Element && event.target.closest(".classes button");
    if (inside && unseen(event.timeStamp)) event.stopPropagation();
  }, true);
  frame.addEventListener("click", () => { if (s.shown) zoom(); });
  document.addEventListener("keydown", pressed, true);
  window.addEventListener("beforeunload", leaving);
  s.refresh = draw;
  draw();
  if (s.pending.length) send();

  function leave() {
    document.removeEventListener("keydown", pressed, true);
    window.removeEventListener("beforeunload", leaving);
    parentElement.auditLabeller = null;
    s.refresh = () => {};
  }
  parentElement.auditLabeller = { key: data.key, leave };
  return leave;
}
