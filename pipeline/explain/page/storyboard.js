"use strict";
(async () => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = id => document.getElementById(id);
  const make = (tag, className, text) => {
    const made = document.createElement(tag);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  };
  const percent = share => {
    const value = 100 * share;
    return (value > 0 && value < 9.95 ? value.toFixed(1) : Math.round(value)) + " %";
  };

  // entered[pass][token], then looked[question][map layer][token]; tokens: pictures first, then sound.
  const maps = await unpacked(data.maps);
  const perPicture = data.rows * data.columns, seen = data.images.length * perPicture;
  const tokens = seen + data.audio_tokens, passes = data.video_kept.length || data.audio_kept.length;
  const encoded = data.encoded ? await unpacked(data.encoded) : null;
  const enteredIn = pass => maps.subarray(pass * tokens, (pass + 1) * tokens);
  const lookedAt = (question, place) => {
    const start = (passes + question * data.map_layers.length + place) * tokens;
    return maps.subarray(start, start + tokens);
  };
  const state = { question: 0, layer: 0, view: "kept" };
  // What differs from dense is what one opens this page for.
  state.question = Math.max(0, data.questions.findIndex(q => q.is_same === false));
  let canvases = [];

  async function unpacked(text) {
    const bytes = Uint8Array.from(atob(text), c => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }

  // --- questions and answers ---

  function buildQuestions() {
    data.questions.forEach((question, number) => {
      const button = make("button");
      button.type = "button";
      button.append(make("span", "q name", question.text));
      const answer = make("span", "a");
      answer.append(make("span", "name", question.answer || "(nothing)"));
      const best = question.options.find(o => question.answer.startsWith(o.name)) || question.options[0];
      if (best) answer.append(make("span", "p", percent(best.pruned)));
      button.append(answer);
      if (question.is_same === false) button.append(make("span", "differs", "dense says " + question.dense));
      button.addEventListener("click", () => { state.question = number; showQuestion(); paint(); });
      const item = make("li");
      item.append(button);
      byId("questions").append(item);
    });
  }

  function showQuestion() {
    const question = data.questions[state.question];
    document.querySelectorAll("#questions button").forEach((button, number) =>
      button.setAttribute("aria-pressed", number === state.question));
    const list = document.querySelector(".asked"), chosen = document.querySelector("#questions [aria-pressed=true]");
    // Only the list moves, not the page: on a phone it runs sideways.
    if (list.scrollWidth > list.clientWidth) list.scrollLeft = chosen.offsetLeft - (list.clientWidth - chosen.offsetWidth) / 2;
    byId("question").textContent = question.text;
    byId("verdict").replaceChildren(...verdict(question));
    const rows = question.options.map(option => {
      const row = make("div", "option" + (option.name === question.options.reduce((a, b) => a.pruned >= b.pruned ? a : b).name ? " best" : ""));
      const bars = make("span", "bars");
      const bar = (className, share) => {
        const made = make("span", className);
        made.style.width = 100 * share + "%";
        bars.append(made);
      };
      bar("pruned", option.pruned);
      if (option.dense !== null) bar("dense", option.dense);
      const shares = [option.pruned, option.dense].filter(share => share !== null).map(percent).join(" · ");
      row.append(make("span", "name", option.name), bars, make("span", "value", shares));
      row.title = option.name;
      return row;
    });
    if (rows.length) {
      const head = make("div", "option head"), key = make("span", "bars");
      key.append(make("i", "is-pruned", "pruned"));
      if (question.options[0].dense !== null) key.append(make("i", "is-dense", "dense"));
      head.append(make("span"), key);
      rows.unshift(head);
    }
    byId("options").replaceChildren(...rows);
    drawPlot();
  }

  function verdict(question) {
    const bold = text => make("b", "name", text);
    const parts = ["The answer is ", bold(question.answer || "(nothing)"), ". "];
    if (question.is_same === null) return [...parts, "The clip does not fit into memory dense, so there is nothing to compare with."];
    if (data.mode.startsWith("dense")) return [...parts, "Nothing was pruned."];
    if (question.is_same) return [...parts, "Dense, with nothing dropped, answers the same: pruning did not change it."];
    const half = question.covered.findIndex(share => share < 0.5);
    parts.push("Dense, with nothing dropped, answers ", bold(question.dense || "(nothing)"), ": pruning changed it. ");
    if (half >= 0) parts.push(`From layer ${half + 1} on, less than half of what this question looks at is still there.`);
    else parts.push("Most of what this question looks at is still there; little was needed to turn it.");
    return parts;
  }

  // --- layers ---

  function drawPlot() {
    const question = data.questions[state.question], pass = question.pass_number;
    const svg = byId("plot");
    svg.replaceChildren();
    const line = (shares, className) => {
      if (!shares || !shares.length) return;
      const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
      const x = i => shares.length > 1 ? 100 * i / (shares.length - 1) : 50;
      path.setAttribute("d", shares.map((share, i) => `${i ? "L" : "M"}${x(i).toFixed(2)} ${(100 - 100 * share).toFixed(2)}`).join(""));
      path.setAttribute("class", "line " + className);
      svg.append(path);
    };
    line(data.video_kept[pass], "video-line");
    line(data.audio_kept[pass], "audio-line");
    line(question.covered, "run-line");
  }

  function buildStops() {
    const last = data.layers - 1;
    const stops = [["Enters the decoder", 0], ["Early", Math.round(last / 4)], ["Middle", Math.round(last / 2)], ["Late", Math.round(3 * last / 4)], ["Last layer", last]];
    stops.forEach(([name, layer], place) => {
      if (place && layer <= stops[place - 1][1]) return;
      const button = make("button", "link", name);
      button.type = "button";
      button.addEventListener("click", () => setLayer(layer));
      byId("stops").append(button);
    });
  }

  function setLayer(layer) {
    state.layer = layer;
    byId("layer").value = layer;
    paint();
  }

  function readout() {
    const question = data.questions[state.question], pass = question.pass_number, parts = [];
    const kept = [[data.video_kept[pass], "picture"], [data.audio_kept[pass], "sound"]].filter(([shares]) => shares && shares.length);
    parts.push(`Layer ${state.layer + 1} of ${data.layers}: `);
    kept.forEach(([shares, name], place) => parts.push(place ? " and " : "", make("b", "", percent(shares[state.layer])), ` of the ${name} tokens`));
    parts.push(kept.length === 1 && kept[0][0].length ? " are still there. They hold " : " are still there. They hold ");
    parts.push(make("b", "", percent(question.covered[state.layer])), " of what this question looks at here.");
    byId("readout").replaceChildren(...parts);
  }

  // --- pictures and sound ---

  function buildBoard() {
    const board = byId("board"), pictures = data.images.length;
    const width = board.clientWidth || 800;
    const ratio = data.width && data.height ? data.width / data.height : 16 / 9;
    const fitting = Math.max(2, Math.min(8, Math.floor(width / (ratio < 1 ? 110 : 150))));
    const strips = Math.max(1, Math.ceil(pictures / fitting));
    const across = pictures ? Math.ceil(pictures / strips) : 1;
    const stripS = pictures ? across * data.patch_s : Math.min(30, data.sound_s);
    const count = pictures ? strips : Math.max(1, Math.ceil(data.sound_s / stripS - 1e-6));
    board.replaceChildren();
    board.classList.toggle("no-picture", !pictures);
    canvases = [];
    for (let number = 0; number < count; number++) {
      const strip = make("div", "film");
      if (pictures) strip.append(picturesOf(number * across, Math.min(pictures, (number + 1) * across), across, ratio));
      if (data.sound) {
        const sound = soundOf(number * stripS, stripS);
        if (sound) strip.append(sound);
      }
      board.append(strip);
    }
  }

  function canvas(width, height, first, label) {
    const made = make("canvas");
    made.width = width;
    made.height = height;
    canvases.push({ canvas: made, first, count: width * height });
    return made;
  }

  function picturesOf(from, to, across, ratio) {
    const row = make("div", "shots");
    row.style.gridTemplateColumns = `repeat(${across}, minmax(0, 1fr))`;
    for (let number = from; number < to; number++) {
      const figure = make("figure", "shot");
      figure.style.aspectRatio = String(ratio);
      const image = make("img");
      image.src = data.images[number];
      image.alt = "";
      figure.append(image, canvas(data.columns, data.rows, number * perPicture), make("time", "", clock(data.start_s + data.image_times_s[number])));
      row.append(figure);
    }
    return row;
  }

  function soundOf(start, length) {
    const perSecond = data.audio_tokens / data.sound_s;
    const first = Math.round(start * perSecond), last = Math.min(data.audio_tokens, Math.round((start + length) * perSecond));
    if (last <= first) return null;
    const lane = make("div", "lane"), image = make("img"), over = canvas(last - first, 1, seen + first);
    const shown = Math.min(length, data.sound_s - start);
    image.src = data.sound;
    image.alt = "";
    image.style.width = 100 * data.sound_s / length + "%";
    image.style.left = -100 * start / length + "%";
    over.style.width = 100 * shown / length + "%";
    lane.append(image, over);
    return lane;
  }

  function clock(seconds) {
    const tenths = Math.round(10 * seconds), minutes = Math.floor(tenths / 600), rest = tenths - 600 * minutes;
    return `${minutes}:${String(Math.floor(rest / 10)).padStart(2, "0")}${rest % 10 ? "." + rest % 10 : ""}`;
  }

  function paint() {
    const question = data.questions[state.question];
    const entered = enteredIn(question.pass_number);
    const places = data.map_layers.map((layer, place) => [Math.abs(layer - state.layer), place]);
    const looked = lookedAt(state.question, places.reduce((a, b) => b[0] < a[0] ? b : a)[1]);
    const dark = matchMedia("(prefers-color-scheme: dark)").matches;
    const veil = dark ? [18, 20, 23] : [250, 249, 246], unseen = dark ? [52, 62, 76] : [176, 188, 204], still = dark ? [46, 70, 58] : [182, 208, 190];
    const deepest = Math.min(255, data.layers);
    for (const { canvas, first, count } of canvases) {
      const context = canvas.getContext("2d"), image = context.createImageData(canvas.width, canvas.height);
      for (let i = 0; i < count; i++) {
        const token = first + i, isThere = entered[token] > state.layer;
        let red = 0, green = 0, blue = 0, alpha;
        if (state.view === "kept") {
          const isUnseen = encoded && !encoded[token], isStill = encoded && encoded[token] === 2;
          [red, green, blue] = isUnseen ? unseen : isStill ? still : veil;
          alpha = isUnseen ? 0.96 : isThere ? 0 : 0.92 - 0.22 * entered[token] / deepest;
        } else {
          const heat = looked[token] / data.levels;
          [red, green, blue] = isThere ? [255, 196, 58] : [232, 52, 60];
          red *= heat; green *= heat; blue *= heat;
          alpha = 0.72 + 0.16 * heat;
        }
        image.data.set([red, green, blue, 255 * alpha], 4 * i);
      }
      context.putImageData(image, 0, 0);
    }
    byId("at").style.left = (data.layers > 1 ? 100 * state.layer / (data.layers - 1) : 50) + "%";
    readout();
    legend();
  }

  function legend() {
    if (state.view === "kept") {
      byId("legend").textContent = "Lit: still there. Veiled: dropped, the earlier the more." + (data.cells_still ? " Green: dropped, looks as it did when it was encoded." : "") + (encoded && encoded.includes(0) ? " Blue-grey: never encoded." : "");
      return;
    }
    const entries = [["rgb(255 196 58)", "looked at more than others, still there"], ["rgb(232 52 60)", "looked at more than others, but dropped"]];
    byId("legend").replaceChildren(...entries.map(([colour, text]) => {
      const made = make("i", "", text);
      made.style.setProperty("--swatch", colour);
      return made;
    }));
  }

  // --- begin ---

  buildQuestions();
  buildStops();
  buildBoard();
  showQuestion();
  setLayer(Math.round((data.layers - 1) / 2));
  byId("layer").addEventListener("input", event => setLayer(Number(event.target.value)));
  document.querySelectorAll("input[name=view]").forEach(input => input.addEventListener("change", () => { state.view = input.value; paint(); }));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);
  let width = byId("board").clientWidth;
  addEventListener("resize", () => {
    if (byId("board").clientWidth === width) return;
    width = byId("board").clientWidth;
    buildBoard();
    paint();
  });
  let playing = null;
  const stop = () => { clearInterval(playing); playing = null; byId("play").textContent = "Play the layers"; };
  byId("play").addEventListener("click", () => {
    if (playing) return stop();
    if (state.layer === data.layers - 1) setLayer(0);
    byId("play").textContent = "Stop";
    playing = setInterval(() => state.layer < data.layers - 1 ? setLayer(state.layer + 1) : stop(), Math.max(120, 6000 / data.layers));
  });
  document.body.dataset.ready = "yes";
})();
