"use strict";
// The explorer: answers as timelines or as a list. Every text goes through textContent, because file names and answers
// are other people's words.
(async () => {
  const VIDEOS = 10, ROWS = 50, COLOURS = 8, NUMBER_STEPS = 5;
  const TOUCHING_S = 0.02; // clips this close are neighbours: times are rounded to hundredths
  const by = (id) => document.getElementById(id);
  if (!by("explorer")) return;

  const make = (tag, properties = {}, ...children) => {
    const made = Object.assign(document.createElement(tag), properties);
    made.append(...children.filter((child) => child !== null));
    return made;
  };

  const unpack = async () => {
    const bytes = Uint8Array.from(atob(by("data").textContent.trim()), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return JSON.parse(await new Response(stream).text());
  };

  if (!("DecompressionStream" in window)) {
    by("status").textContent = "This browser is too old to unpack the answers; `omnidrop query` shows them.";
    return;
  }
  const { questions, videos } = await unpack();
  for (const video of videos) {
    video.unreadable = new Map(video.unread.map(([question, clip, why]) => [question + ":" + clip, why]));
  }

  // -- words ---------------------------------------------------------------------------------------------------------

  const clock = (seconds) => {
    const whole = Math.floor(seconds), two = (n) => String(n).padStart(2, "0");
    const hours = Math.floor(whole / 3600), minutes = Math.floor(whole / 60) % 60;
    return (hours ? hours + ":" + two(minutes) : minutes) + ":" + two(whole % 60);
  };
  const span = (start, end) => clock(start) + "–" + clock(end);
  const number = (n) => n.toLocaleString("en");
  const counted = (n, noun) => number(n) + " " + noun + (n === 1 ? "" : "s");
  const percent = (thousandths) => {
    const share = Math.floor(thousandths / 10);
    return (thousandths > 990 && thousandths < 1000 ? (thousandths / 10).toFixed(1) : share) + " %";
  };
  const sureness = (range) =>
    range.low === null ? "" : range.low === range.high ? percent(range.low) + " sure"
      : percent(range.low) + " to " + percent(range.high) + " sure";
  const said = (range) => range.why ? "unreadable (" + range.why + ")" : range.answer || "nothing";

  // -- colours -------------------------------------------------------------------------------------------------------

  const places = questions.map((question) => new Map(question.answers.map((answer, place) => [answer, place])));
  const colour = (q, range, index) => {
    const question = questions[q];
    if (range.why) return "unreadable";
    if (question.chart === "yes_no") return range.answer === "yes" ? "yes" : "no";
    if (question.chart === "scale") {
      const wide = question.high - question.low;
      const share = wide > 0 ? (Number(range.answer) - question.low) / wide : 1;
      return "n" + Math.min(NUMBER_STEPS - 1, Math.floor(share * NUMBER_STEPS));
    }
    if (question.chart !== "words") return "t" + (index % 2);
    const place = places[q].get(range.answer);
    return place === undefined || place >= COLOURS ? "other" : "c" + place;
  };

  for (const button of document.querySelectorAll(".count")) {
    const q = questions.findIndex((question) => question.id === button.dataset.question);
    if (q >= 0) button.classList.add(colour(q, { answer: button.dataset.answer }, 0));
  }

  // -- what is chosen ------------------------------------------------------------------------------------------------

  const state = { question: 0, answer: "", text: "", view: "timeline", sort: "low", count: 0 };
  const firstKind = questions.findIndex((question) => ["words", "yes_no"].includes(question.chart));
  state.question = Math.max(0, firstKind);
  const UNREADABLE = "\u0000unreadable";

  const chosen = () => state.question < 0 ? questions.map((_, q) => q) : [state.question];

  const fits = (video, q, clip) => {
    if (video.answers[q][clip] === null) return false;
    if (!state.answer) return true;
    const unreadable = video.unreadable.has(q + ":" + clip);
    return state.answer === UNREADABLE ? unreadable : !unreadable && video.answers[q][clip] === state.answer;
  };

  // -- timelines -----------------------------------------------------------------------------------------------------

  // As the view `answer_ranges` has it: clips with one answer that touch or overlap are one range.
  const ranges = (video, q) => {
    const merged = [], lastOf = new Map();
    video.start.forEach((start, clip) => {
      const answer = video.answers[q][clip];
      if (answer === null) return;
      const sure = video.sure[q][clip], why = video.unreadable.get(q + ":" + clip) || null, end = video.end[clip];
      const key = why === null ? "answer " + answer : "unreadable " + why;
      let range = lastOf.get(key);
      if (!range || start - range.end > TOUCHING_S) {
        range = { start, end, answer, why, clips: 0, low: sure, high: sure, fits: false, doubtful: clip };
        lastOf.set(key, range);
        merged.push(range);
      }
      range.end = Math.max(range.end, end);
      range.clips += 1;
      if (sure !== null) {
        if (sure < range.low) range.doubtful = clip;
        range.low = Math.min(range.low, sure);
        range.high = Math.max(range.high, sure);
      }
      range.fits ||= fits(video, q, clip);
    });
    return merged;
  };

  const place = (element, start, end, duration) => {
    element.style.left = (100 * start) / duration + "%";
    element.style.width = (100 * (end - start)) / duration + "%";
    return element;
  };

  const opened = (video, start, end, words) => {
    if (!video.open) return make("span", { className: "name", title: video.uri }, words);
    return make("a", { href: video.open + "#t=" + start + "," + end, target: "_blank", rel: "noopener" }, words);
  };

  const strip = (video, q, moment) => {
    const duration = video.duration || 1;
    const made = make("div", { className: "strip" });
    made.setAttribute("role", "group");
    made.setAttribute("aria-label", questions[q].text + " Arrow keys go from range to range.");
    for (const [start, end, why] of video.lost) {
      const gap = place(make("span", { className: "lost" }), start, end, duration);
      gap.dataset.tip = span(start, end) + " has no answer: " + why;
      made.append(gap);
    }
    ranges(video, q).forEach((range, index) => {
      const label = said(range);
      const button = make("button", { type: "button", className: "range " + colour(q, range, index) },
        make("span", { className: "range-name" }, label));
      place(button, range.start, range.end, duration);
      button.tabIndex = index ? -1 : 0;
      if (!range.fits) button.classList.add("faint");
      const details = [counted(range.clips, "clip"), sureness(range)].filter(Boolean).join(", ");
      button.dataset.tip = span(range.start, range.end) + "  " + label + "\n" + details;
      button.setAttribute("aria-label", span(range.start, range.end) + " " + label + ", " + details);
      button.addEventListener("click", () => {
        for (const other of moment.parentElement.querySelectorAll("[aria-pressed]")) other.removeAttribute("aria-pressed");
        button.setAttribute("aria-pressed", "true");
        moment.replaceChildren(
          make("b", { className: "name" }, label), ", " + details + ". ",
          opened(video, range.start, range.end, (video.open ? "Open at " : video.uri + " at ") + clock(range.start)),
          ". Why? ", make("code", {}, "omnidrop explain " + video.clip[range.doubtful]),
        );
      });
      made.append(button);
    });
    made.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      const all = [...made.querySelectorAll("button")], at = all.indexOf(document.activeElement);
      const next = event.key === "Home" ? all[0] : event.key === "End" ? all.at(-1) : step && all[at + step];
      if (!next) return;
      event.preventDefault();
      all[at].tabIndex = -1;
      next.tabIndex = 0;
      next.focus();
    });
    return made;
  };

  const timeline = (video) => {
    const moment = make("p", { className: "moment small" });
    moment.setAttribute("aria-live", "polite");
    const every = state.question < 0;
    const made = make("article", { className: every ? "timeline whole" : "timeline" });
    if (every) made.append(make("h4", { className: "name" }, video.key));
    for (const q of chosen()) {
      const name = every ? make("p", { className: "track-name" }, questions[q].text)
        : make("h4", { className: "track-name name" }, video.key);
      made.append(make("div", { className: "track" }, name, strip(video, q, moment),
        make("span", { className: "track-end" }, clock(video.duration))));
    }
    made.append(moment);
    return made;
  };

  const matches = (text) => !state.text || text.toLowerCase().includes(state.text);

  const found = () => videos.filter((video) =>
    chosen().some((q) => video.start.some((_, clip) => fits(video, q, clip)
      && (matches(video.key) || matches(video.answers[q][clip])))));

  const showTimelines = () => {
    const all = found(), shown = all.slice(0, state.count);
    by("shown").replaceChildren(...shown.map(timeline));
    return [all.length > shown.length, counted(all.length, "video")];
  };

  // -- list ----------------------------------------------------------------------------------------------------------

  const entries = () => {
    const all = [];
    videos.forEach((video, v) => {
      const named = matches(video.key);
      for (const q of chosen()) {
        video.start.forEach((_, clip) => {
          if (fits(video, q, clip) && (named || matches(video.answers[q][clip]))) all.push([v, q, clip]);
        });
      }
    });
    if (state.sort === "time") {
      return all.sort((a, b) => a[0] - b[0] || a[2] - b[2] || a[1] - b[1]);
    }
    // What has no probability (a text) comes last either way.
    const sign = state.sort === "low" ? 1 : -1;
    const sure = ([v, q, clip]) => {
      const value = videos[v].sure[q][clip];
      return value === null ? Infinity : sign * value;
    };
    return all.map((entry) => [sure(entry), entry]).sort((a, b) => a[0] === b[0] ? 0 : a[0] - b[0]).map((pair) => pair[1]);
  };

  const row = ([v, q, clip]) => {
    const video = videos[v], sure = video.sure[q][clip], start = video.start[clip], end = video.end[clip];
    const range = { answer: video.answers[q][clip], why: video.unreadable.get(q + ":" + clip) || null };
    const unit = questions[q].unit && !range.why ? " " + questions[q].unit : "";
    const meter = make("span", { className: "bar" }, make("span"));
    meter.firstChild.style.width = (sure || 0) / 10 + "%";
    meter.setAttribute("aria-hidden", "true");
    return make("tr", {},
      make("td", {}, make("span", { className: "name" }, video.key), " ", opened(video, start, end, span(start, end)), " ",
        make("code", { className: "muted" }, video.clip[clip])),
      make("td", { className: range.why ? "bad" : "" },
        state.question < 0 ? make("div", { className: "small muted" }, questions[q].text) : null,
        make("span", { className: "name" }, range.why ? said(range) + " " + range.answer : said(range)), unit),
      make("td", { className: "saved" }, sure === null ? "" : meter, make("span", {}, sure === null ? "–" : percent(sure))));
  };

  const showList = () => {
    const all = entries(), shown = all.slice(0, state.count);
    const cells = ["Moment", "Answer", "How sure"].map((name) => make("th", { scope: "col" }, name));
    const table = make("table", { className: "list" },
      make("caption", { className: "hidden" }, "Answers"),
      make("thead", {}, make("tr", {}, ...cells)),
      make("tbody", {}, ...shown.map(row)));
    by("shown").replaceChildren(shown.length ? table : "");
    return [all.length > shown.length, counted(all.length, "answer")];
  };

  // -- controls ------------------------------------------------------------------------------------------------------

  const showLegend = () => {
    const question = questions[state.question];
    const items = [];
    if (state.view === "timeline" && question) {
      if (question.chart === "scale" && question.low !== null) {
        const ramp = Array.from({ length: NUMBER_STEPS }, (_, i) => make("span", { className: "swatch n" + i }));
        items.push(make("li", { className: "ramp" }, String(question.low) + " ", ...ramp,
          " " + question.high + (question.unit ? " " + question.unit : "")));
      } else {
        question.answers.forEach((answer, i) => items.push(make("li", {},
          make("span", { className: "swatch " + colour(state.question, { answer }, i) }),
          make("span", { className: "name" }, answer))));
      }
      if (videos.some((video) => video.lost.length)) {
        items.push(make("li", {}, make("span", { className: "swatch lost" }), "no answer"));
      }
    }
    by("legend").replaceChildren(...items);
  };

  const show = () => {
    const [more, words] = state.view === "timeline" ? showTimelines() : showList();
    by("status").textContent = words;
    by("more").hidden = !more;
    by("sort-label").hidden = state.view === "timeline";
    showLegend();
  };

  const restart = () => {
    state.count = state.view === "timeline" ? VIDEOS : ROWS;
    show();
  };

  const fillAnswers = () => {
    const question = questions[state.question];
    const options = [make("option", { value: "" }, "any")];
    if (question) {
      options.push(...question.answers.map((answer) => make("option", { value: answer }, answer)));
      options.push(make("option", { value: UNREADABLE }, "unreadable"));
    }
    by("pick-answer").replaceChildren(...options);
    by("pick-answer").value = state.answer;
    by("pick-answer").disabled = !question;
  };

  const pick = (question, answer) => {
    Object.assign(state, { question, answer });
    by("pick-question").value = String(question);
    fillAnswers();
    restart();
  };

  by("pick-question").append(
    ...questions.map((question, q) => make("option", { value: String(q) }, question.text)),
    make("option", { value: "-1" }, "all questions"));
  by("pick-question").addEventListener("change", (event) => pick(Number(event.target.value), ""));
  by("pick-answer").addEventListener("change", (event) => pick(state.question, event.target.value));
  by("pick-sort").addEventListener("change", (event) => { state.sort = event.target.value; restart(); });
  for (const radio of document.querySelectorAll("input[name=view]")) {
    radio.addEventListener("change", () => { state.view = radio.value; restart(); });
  }
  let waiting;
  by("pick-text").addEventListener("input", (event) => {
    clearTimeout(waiting);
    waiting = setTimeout(() => { state.text = event.target.value.trim().toLowerCase(); restart(); }, 120);
  });
  by("more").addEventListener("click", () => {
    state.count += state.view === "timeline" ? VIDEOS : ROWS;
    show();
  });
  for (const button of document.querySelectorAll("[data-question]")) {
    button.addEventListener("click", () => {
      const q = questions.findIndex((question) => question.id === button.dataset.question);
      if (q < 0) return;
      if (!button.dataset.answer) document.querySelector("input[name=view][value=list]").click();
      pick(q, button.dataset.answer);
      by("explorer").scrollIntoView();
      by("pick-question").focus({ preventScroll: true });
    });
  }

  // One tip for all ranges, because a title attribute comes late and never on touch.
  const tip = by("tip");
  const showTip = (event) => {
    const target = event.target.closest ? event.target.closest("[data-tip]") : null;
    tip.hidden = !target;
    if (!target) return;
    tip.textContent = target.dataset.tip;
    const box = target.getBoundingClientRect(), wide = tip.offsetWidth;
    const middle = Math.max(box.left, 0) / 2 + Math.min(box.right, window.innerWidth) / 2;
    tip.style.left = Math.max(8, Math.min(window.innerWidth - wide - 8, middle - wide / 2)) + "px";
    tip.style.top = Math.max(8, box.top - tip.offsetHeight - 8) + "px";
  };
  by("shown").addEventListener("pointerover", showTip);
  by("shown").addEventListener("focusin", showTip);
  by("shown").addEventListener("pointerleave", () => { tip.hidden = true; });
  by("shown").addEventListener("focusout", () => { tip.hidden = true; });
  window.addEventListener("scroll", () => { tip.hidden = true; }, { passive: true });

  document.querySelector(".controls").hidden = false;
  pick(state.question, "");
  document.documentElement.dataset.ready = "yes";
})();
