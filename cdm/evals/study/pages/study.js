// One trial after another: load, blank, view, ask, answer. Which trial it is the server says, so that a reload, a second
// tab or a repeated request changes nothing.
"use strict";
{
  const BLANK = 600; // ms of grey before pictures, at least
  const LARGE = 560; // CSS pixels of a picture's side that enlarging does not exceed
  const GAP = 16, BELOW = 56; // of the style sheet: between pictures, and for what is under them
  const main = document.querySelector("main"), stage = document.getElementById("stage");
  const note = document.getElementById("note"), start = document.getElementById("start");
  const canvases = [...document.querySelectorAll("canvas")], choices = [...document.querySelectorAll(".choice")];
  const { seconds, width, height, of } = JSON.parse(main.dataset.facts);
  let trial = null, scale = 0, onset = 0, asked = 0;

  const pause = ms => new Promise(done => setTimeout(done, ms));
  const frame = () => new Promise(requestAnimationFrame);

  function enter(state, text = "") {
    main.dataset.state = state;
    note.textContent = text;
    for (const choice of choices) choice.disabled = state !== "asking";
  }

  // Tried until it is answered: the server keeps the first answer to a trial, so asking again is harmless.
  async function request(path, options) {
    for (let wait = 500; ; wait = Math.min(2 * wait, 8000)) {
      try {
        const response = await fetch(path, { ...options, cache: "no-store" });
        if (response.ok) return response;
        if (response.status < 500) return location.reload(), new Promise(() => {}); // answered elsewhere
      } catch { /* no connection */ }
      enter("lost", "No connection. Trying again …");
      await pause(wait);
    }
  }

  async function post(path, body) {
    return (await request(`${location.pathname}/${path}`, { method: "POST", body: JSON.stringify(body) })).json();
  }

  async function load(canvas) {
    const rgb = new Uint8Array(await (await request(`/picture/${trial.token}/${canvas.id}`)).arrayBuffer());
    const image = new ImageData(width, height);
    for (let from = 0, to = 0; from < rgb.length; to++) {
      image.data[to++] = rgb[from++];
      image.data[to++] = rgb[from++];
      image.data[to++] = rgb[from++];
      image.data[to] = 255;
    }
    canvas.width = width;
    canvas.height = height;
    canvas.getContext("2d").putImageData(image, 0, 0);
  }

  // The largest whole number of screen pixels for a pixel of a picture with which all of them fit; 0 if none does.
  function fit() {
    const ratio = window.devicePixelRatio, n = canvases.length;
    const room = Math.min((stage.clientWidth - (n - 1) * GAP) / n / width, (stage.clientHeight - BELOW) / height) * ratio;
    const large = Math.max(1, Math.floor(LARGE * ratio / Math.max(width, height)));
    scale = Math.max(0, Math.min(Math.floor(room + 1e-6), large));
    for (const canvas of canvases) {
      canvas.style.width = `${Math.max(1, scale) * width / ratio}px`;
      canvas.style.height = `${Math.max(1, scale) * height / ratio}px`;
    }
  }

  function show(next) {
    trial = next;
    document.querySelector("progress").value = trial.done;
    document.getElementById("count").textContent = `${Math.min(trial.done + 1, of)} / ${of}`;
  }

  async function run() {
    enter("loading");
    await Promise.all([...canvases.map(load), pause(BLANK)]);
    enter("loading");
    for (fit(); !scale; fit()) {
      enter("small", "This window is too small for the pictures. Make it larger, or turn your phone.");
      await pause(200);
    }
    onset = await frame(); // waits while the page is in the background
    enter("viewing");
    while (main.dataset.state === "viewing" && await frame() - onset < 1000 * seconds - 4);
    if (main.dataset.state === "viewing") ask();
  }

  function ask() {
    for (const canvas of canvases) canvas.width = width; // which wipes it
    enter("asking");
    asked = performance.now();
  }

  async function answer(side, means) {
    if (main.dataset.state !== "asking") return;
    const reaction = performance.now() - asked;
    enter("saving");
    next(await post("answer", { token: trial.token, side, means, scale, viewed_ms: asked - onset, reaction_ms: reaction }));
  }

  function next(state) {
    if (!state.token) return location.reload(); // the server has the page of thanks
    show(state);
    run();
  }

  const means = event => event.pointerType || (event.detail ? "mouse" : "key");
  for (const choice of choices) choice.addEventListener("click", event => answer(choice.value, means(event)));
  for (const canvas of canvases.filter(c => c.id !== "middle"))
    canvas.parentElement.addEventListener("click", event => answer(canvas.id, means(event)));
  document.addEventListener("keydown", event => {
    const side = { ArrowLeft: "left", ArrowRight: "right" }[event.key];
    if (!side || event.repeat || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    answer(side, "key");
  });
  document.addEventListener("visibilitychange", () => { // time in the background is not time to look
    if (document.hidden && main.dataset.state === "viewing") ask();
  });
  window.addEventListener("resize", () => { // pictures that are seen, or were, keep their size
    if (!["viewing", "asking", "saving"].includes(main.dataset.state)) fit();
  });

  (async () => {
    const state = await post("next");
    if (!state.token) return location.reload();
    show(state);
    fit();
    const turn = innerHeight > innerWidth && innerWidth < 700 ? " Turn your phone sideways to see them larger." : "";
    enter("ready", (state.done ? `${state.done} of ${of} are answered.` : `Pictures are shown for ${seconds} s.`) + turn);
    start.textContent = state.done ? "Go on" : "Show the first pictures";
    start.focus();
    start.addEventListener("click", run, { once: true });
  })();
}
