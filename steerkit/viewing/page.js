"use strict";
(() => {
  const find = (what, within = document) => [...within.querySelectorAll(what)];
  const one = (id) => document.getElementById(id);
  const body = document.body, header = document.querySelector("header");
  const chips = find("button[data-label]"), articles = find("article");
  const known = JSON.parse(one("values").textContent);
  const every = new Set(chips.map((chip) => chip.dataset.label));
  const active = new Set(chips.filter((c) => c.getAttribute("aria-pressed") === "true")
    .map((c) => c.dataset.label));
  if (!active.size) for (const name of every) active.add(name);
  let now = null, differing = false;

  // spans of all annotators by their place in the chain, or where annotators differ
  const marks = articles.flatMap((article) => find("mark", article)
    .map((mark, n) => [Number(mark.dataset.s), n, mark])
    .sort((a, b) => a[0] - b[0] || a[1] - b[1]).map((entry) => entry[2]));
  const differences = articles.flatMap((article) => {
    const seen = new Set();
    return find("i[data-x]", article).filter((piece) => {
      const fresh = !seen.has(piece.dataset.x);
      seen.add(piece.dataset.x);
      return fresh;
    });
  });
  const shown = (element) => !element.closest("article").hidden;
  const targets = () => differing ? differences.filter(shown)
    : marks.filter((mark) => active.has(mark.dataset.l) && shown(mark));

  const number = (value) => value.toPrecision(2).replace("-", "\u2212");
  const direction = () => one("under") && one("under").value !== "" ? Number(one("under").value) : null;
  const tokensOf = (piece) => {
    const [first, last] = piece.dataset.t.split("-").map(Number);
    return [first, last === undefined ? first : last];
  };
  // mean of a direction's projections on tokens first to last of a chain; null where unknown
  const mean = (article, which, first, last) => {
    const values = known.values[articles.indexOf(article)]?.[which];
    if (!values) return null;
    const some = values.slice(Math.max(first, 0), last + 1).filter((value) => value !== null);
    return some.length ? some.reduce((sum, value) => sum + value, 0) / some.length : null;
  };

  // what every annotator says of a place where they differ
  const labelled = (article, x) => find("section", article).flatMap((section) => {
    const pieces = find(`i[data-x="${x}"]`, section);
    if (!pieces.length) return [];
    const labels = new Set(pieces.map((piece) => piece.closest("mark")?.dataset.l ?? "no label"));
    return [`${section.querySelector("h3").textContent}: ${[...labels].join(", ")}`];
  }).join(" / ");

  function tell() {
    const list = targets(), at = list.indexOf(now);
    const noun = differing ? "differences" : "spans";
    one("place").textContent = at < 0 ? `${list.length} ${noun}` : `${at + 1} of ${list.length} ${noun}`;
    let text = "";
    if (now && at >= 0) {
      const article = now.closest("article");
      text = `${article.dataset.id}: ${differing ? labelled(article, now.dataset.x) : now.title}`;
      const which = direction();
      if (which !== null && now.dataset.q) {
        const [first, last] = now.dataset.q.split(",").map(Number);
        const value = mean(article, which, first, last);
        const { name, unit } = known.directions[which];
        if (value !== null) text += `, mean projection there on ${name}: ${number(value)} ${unit}`;
      }
    }
    one("about").textContent = text;
  }

  function choose(element) {
    now?.classList.remove("now");
    now = element;
    now?.classList.add("now");
    if (now) {
      const at = articles.indexOf(now.closest("article"));
      one("chain").value = String(at);
    }
    tell();
  }

  function go(by) {
    const list = targets();
    if (!list.length) return tell();
    let at = list.indexOf(now);
    if (at < 0) {
      // from what was chosen last, or from the top of the window
      const from = now && shown(now) ? now.getBoundingClientRect().top
        : header.getBoundingClientRect().bottom;
      at = list.findIndex((element) => element.getBoundingClientRect().top >= from - 1);
      if (by > 0) at = at < 0 ? 0 : at;
      else at = at < 0 ? list.length - 1 : at - 1;
    } else at += by;
    choose(list[(at + list.length) % list.length]);
    now.scrollIntoView({ block: "center" });
  }

  function filter() {
    for (const chip of chips) chip.setAttribute("aria-pressed", active.has(chip.dataset.label));
    for (const mark of marks) mark.classList.toggle("off", !active.has(mark.dataset.l));
    for (const piece of find("i.r")) piece.classList.toggle("quiet", !active.has(piece.dataset.r));
    const all = active.size === every.size;
    let left = 0;
    for (const article of articles) {
      article.hidden = !all && !find("mark", article).some((mark) => active.has(mark.dataset.l));
      left += !article.hidden;
    }
    one("chains").textContent = left === articles.length ? `${left} chains`
      : `${left} of ${articles.length} chains have it`;
    for (const option of one("chain").options) option.disabled = articles[option.value].hidden;
    if (now && (!shown(now) || (!differing && now.dataset.l && !active.has(now.dataset.l)))) {
      now.classList.remove("now");
    }
    tell();
  }

  // one label alone, or all again; with Shift one more or one less
  function pick(label, more) {
    const alone = active.size === 1 && active.has(label);
    if (more) {
      if (!active.delete(label)) active.add(label);
    } else {
      active.clear();
      for (const name of alone ? every : [label]) active.add(name);
    }
    if (!active.size) for (const name of every) active.add(name);
    filter();
  }

  function lay() {
    const which = direction();
    body.classList.toggle("under", which !== null);
    for (const article of articles) {
      for (const piece of find("i[data-t]", article)) {
        const value = which === null ? null : mean(article, which, ...tokensOf(piece));
        if (value === null) {
          piece.style.backgroundColor = "";
          continue;
        }
        const { mean: middle, reach } = known.directions[which];
        const strength = Math.min(Math.abs(value - middle) / (reach || 1), 1) * 0.75;
        const hue = value > middle ? "178 24 43" : "33 102 172";
        piece.style.backgroundColor = `rgb(${hue} / ${strength.toFixed(3)})`;
      }
    }
    const scale = one("scale");
    if (scale) scale.hidden = which === null;
    if (which !== null) {
      const { unit, mean: middle, reach } = known.directions[which];
      one("low").textContent = number(middle - reach);
      one("high").textContent = `${number(middle + reach)} ${unit}`;
    }
    tell();
  }

  const press = (id, act) => one(id)?.addEventListener("click", act);
  press("next", () => go(1));
  press("previous", () => go(-1));
  press("all", () => { for (const name of every) active.add(name); filter(); });
  press("differ", () => {
    differing = !differing;
    one("differ").setAttribute("aria-pressed", differing);
    tell();
  });
  press("reads", () => {
    const off = body.classList.toggle("unread");
    one("reads").setAttribute("aria-pressed", !off);
  });
  for (const chip of chips) {
    chip.addEventListener("click", (event) => pick(chip.dataset.label, event.shiftKey));
  }
  one("under")?.addEventListener("change", lay);
  const jump = (at) => {
    one("chain").value = String(at);
    articles[at].scrollIntoView({ block: "start" });
    window.scrollBy(0, -header.getBoundingClientRect().height);
  };
  one("chain").addEventListener("change", () => jump(Number(one("chain").value)));
  const skip = (by) => {
    let at = Number(one("chain").value) + by;
    while (articles[at]?.hidden) at += by;
    if (articles[at]) jump(at);
  };
  document.querySelector("main").addEventListener("click", (event) => {
    const mark = event.target.closest("mark");
    if (mark && !mark.classList.contains("off")) choose(mark);
  });
  document.querySelector("main").addEventListener("pointerover", (event) => {
    const piece = event.target.closest("i[data-t]"), which = direction();
    if (!piece || which === null) return;
    const [first, last] = tokensOf(piece);
    const value = mean(piece.closest("article"), which, first, last);
    const { name, unit } = known.directions[which];
    if (value !== null) {
      one("about").textContent = `token ${first === last ? first : `${first} to ${last}`}: `
        + `${number(value)} ${unit} on ${name}`;
    }
  });
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("select")) return;
    const key = event.key, under = one("under");
    if (key === "n" || key === "ArrowRight") go(1);
    else if (key === "p" || key === "ArrowLeft") go(-1);
    else if (key === "]") skip(1);
    else if (key === "[") skip(-1);
    else if (key === "0" || key === "Escape") one("all").click();
    else if (/^[1-9]$/.test(key) && chips[key - 1]) pick(chips[key - 1].dataset.label, false);
    else if (key === "d") one("differ")?.click();
    else if (key === "r") one("reads")?.click();
    else if (key === "u" && under) {
      under.selectedIndex = (under.selectedIndex + 1) % under.options.length;
      lay();
    } else return;
    event.preventDefault();
  });
  filter();
  if (one("under")) lay();
})();
