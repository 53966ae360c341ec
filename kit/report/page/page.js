// The gallery of tiles. What is shown is a function of the address's hash: a control changes the hash, and the hash
// the page; so every filter, order and tile has a link, and Back undoes a choice.
"use strict";
(() => {
  const source = document.getElementById("tile-data");
  if (!source) return;
  const { facts, changes, rules, sheets, across } = JSON.parse(source.textContent);
  const [grid, tools, viewer, help] = ["tiles", "tools", "viewer", "help"].map((id) => document.getElementById(id));
  const gallery = grid.closest("article");
  const layerBoxes = document.getElementById("layers");
  const count = facts.id.length;
  const places = new Map(facts.id.map((id, place) => [id, place])); // tiles stand in their order of badness

  const STACK = ["image", "probability", "truth", "mask"].filter((name) => sheets[name]); // from the ground up
  const LAYERS = { truth: "t", probability: "p", mask: "m" }; // with their keys
  const NAMES = { truth: "truth", probability: "probability", mask: "predicted mask" };
  const percent = (x) => `${(100 * x).toFixed(1)} %`;
  const FACTS = {
    score: ["Score", (x) => x.toFixed(2)], iou: ["IoU", (x) => x.toFixed(3)],
    wrong: ["Wrong pixels", (x) => x.toLocaleString("en")], uncertainty: ["Uncertainty", (x) => `${x.toFixed(3)} bits per pixel`],
    coverage: ["Coverage", percent], predicted: ["Predicted coverage", percent], class: ["Coverage class", String], kind: ["Kind", String],
    depth: ["Depth", (x) => `${x} ft`], fold: ["Fold", String],
  };
  const WORST = 50;
  const defaults = { show: "all", kind: "all", class: "all", fold: "all", sort: facts.score ? "score" : "id", layers: sheets.mask ? "truth mask" : "truth", tile: "" };
  let state = { ...defaults };
  let order = []; // the places of the tiles shown, as sorted

  const make = (tag, properties = {}, ...children) => {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  };

  // ---- state and hash
  const hash = (changed) => {
    const wanted = { ...state, ...changed };
    const kept = Object.entries(wanted).filter(([key, value]) => value !== defaults[key]);
    return `#tiles?${new URLSearchParams(kept)}`;
  };
  const isOwn = () => (location.hash || "#tiles?").startsWith("#tiles?");
  // at a link to a section: Back finds the tiles as they were
  const remember = () => isOwn() || history.state || history.replaceState(hash({}), "");
  const go = (changed, backwards = false) => {
    remember(); // the event of that link may be yet to come
    if (backwards) location.hash = hash(changed); // what Back undoes; not each step or layer
    else location.replace(hash(changed));
    read(); // at once: the event comes later, perhaps after the next key
  };

  const read = () => {
    const own = isOwn();
    remember();
    const [, query] = (own ? location.hash : history.state).split(/\?(.*)/s);
    const before = state;
    state = { ...defaults, ...Object.fromEntries([...new URLSearchParams(query ?? "")].filter(([key]) => Object.hasOwn(defaults, key))) };
    for (const select of tools.querySelectorAll("select")) {
      if (![...select.options].some(({ value }) => value === state[select.name])) state[select.name] = defaults[select.name];
      select.value = state[select.name];
    }
    if (!places.has(state.tile)) state.tile = "";
    if (Object.keys(defaults).some((key) => !["layers", "tile"].includes(key) && state[key] !== before[key])) arrange();
    show();
    return own;
  };

  // ---- which tiles, in what order
  const changedBy = rules.map((_, rule) => new Set(changes.filter((change) => change[1] === rule).map(([tile]) => tile)));
  const changedAtAll = new Set(changes.map(([tile]) => tile));
  const filters = {
    kind: (place, value) => (value === "salt" ? facts.kind[place] !== "empty" : facts.kind[place] === value),
    class: (place, value) => String(facts.class[place]) === value,
    fold: (place, value) => String(facts.fold[place]) === value,
  };

  const compare = (values, one, other) => {
    const [a, b] = [values[one], values[other]];
    return typeof a === "string" ? (a < b ? -1 : a > b ? 1 : 0) : a - b;
  };

  const arrange = () => {
    order = [...places.values()];
    for (const [name, keep] of Object.entries(filters)) {
      if (state[name] !== "all") order = order.filter((place) => keep(place, state[name]));
    }
    if (state.show === "worst") order = order.slice(0, WORST);
    if (state.show === "changed") order = order.filter((place) => changedAtAll.has(place));
    if (state.show.startsWith("rule-")) order = order.filter((place) => changedBy[state.show.slice(5)].has(place));
    const descending = state.sort.startsWith("-");
    const values = facts[state.sort.replace("-", "")];
    order.sort((one, other) => (descending ? -1 : 1) * compare(values, one, other)); // stable: the worse one first
    grid.replaceChildren(...order.map((place) => tiles[place]));
    grid.scrollTop = 0;
    document.getElementById("count").textContent = summary();
  };

  const summary = () => {
    const shown = `${order.length.toLocaleString("en")} of ${count.toLocaleString("en")} tiles`;
    if (!order.length) return `${shown}: none fits all of these choices`;
    if (!facts.score) return shown;
    const mean = order.reduce((sum, place) => sum + facts.score[place], 0) / order.length;
    return `${shown}, mean score ${mean.toFixed(4)}`;
  };

  // ---- a tile's picture: a window on a sheet for each layer
  // place: of the tile; of the change where the layer is one of changes
  const layer = (name, place) => {
    const cell = place % across ** 2;
    const [x, y] = [cell % across, Math.floor(cell / across)].map((n) => `${(100 * n) / (across - 1)}%`);
    const element = make("i", { className: name });
    element.style.backgroundImage = `url("tiles/${sheets[name][Math.floor(place / across ** 2)]}")`;
    element.style.backgroundPosition = `${x} ${y}`;
    return element;
  };

  const caption = (place) => [facts.score ? facts.score[place].toFixed(2) : `class ${facts.class[place]}`, facts.kind[place]].join(" · ");
  const tiles = facts.id.map((id, place) => {
    const tile = make("a", { className: "tile", href: `#tiles?${new URLSearchParams({ tile: id })}` },
      make("span", { className: "art" }), make("small", { textContent: caption(place) }));
    tile.setAttribute("aria-label", `${id}, ${caption(place)}`);
    tile.dataset.place = place;
    return tile;
  });

  const near = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      near.unobserve(target);
      target.firstChild.append(...STACK.map((name) => layer(name, Number(target.dataset.place))));
    }
  }, { root: grid, rootMargin: "300px" });
  tiles.forEach((tile) => near.observe(tile));

  // ---- the enlarged view
  const show = () => {
    const layers = state.layers.split(" ");
    for (const name of Object.keys(LAYERS)) gallery.classList.toggle(`layer-${name}`, layers.includes(name));
    for (const box of layerBoxes.querySelectorAll("input")) box.checked = layers.includes(box.name);
    // the same boxes serve both: a finger has no keys
    if (state.tile) viewer.insertBefore(layerBoxes, document.getElementById("panels"));
    else tools.insertBefore(layerBoxes, document.getElementById("help-button"));
    if (!state.tile) return viewer.close();
    const place = places.get(state.tile);
    enlarge(place);
    if (!viewer.open) open(viewer);
  };

  const open = (dialog) => {
    dialog.showModal();
    dialog.focus(); // not its first button
  };

  const enlarge = (place) => {
    const stand = order.indexOf(place);
    document.getElementById("viewer-title").textContent =
      facts.id[place] + (stand < 0 ? "" : ` (${(stand + 1).toLocaleString("en")} of ${order.length.toLocaleString("en")})`);
    document.getElementById("previous").disabled = stand <= 0;
    document.getElementById("next").disabled = stand < 0 || stand === order.length - 1;
    const panel = (className, layers, ...title) =>
      make("figure", {}, make("span", { className }, ...layers), make("figcaption", {}, ...title));
    const of = (...names) => names.map((name) => layer(name, place));
    const swatch = (name) => make("span", { className: `swatch ${name}` });
    const panels = [panel("art", of(...STACK), `With the layers chosen above, or by the keys ${Object.keys(LAYERS).filter((name) => sheets[name]).map((name) => LAYERS[name]).join(", ")}`)];
    if (sheets.mask) {
      panels.push(panel("art fixed", of("image", "truth", "mask"), swatch("truth"), " truth, ", swatch("mask"), " predicted mask"),
        panel("art fixed", of("probability"), "Probability of salt: 0 ", swatch("probability"), " 1"));
    }
    document.getElementById("panels").replaceChildren(...panels);
    const known = Object.entries(FACTS).filter(([name]) => facts[name] && facts[name][place] !== null);
    document.getElementById("facts").replaceChildren(...known.map(([name, [label, text]]) =>
      make("div", {}, make("dt", { textContent: label }), make("dd", { textContent: text(facts[name][place]) }))));
    const own = [...changes.keys()].filter((change) => changes[change][0] === place);
    document.getElementById("changes").replaceChildren(...own.map((change, nth) => {
      const [, rule, before, after, added, removed, left] = changes[change];
      const then = nth + 1 < own.length ? layer("before", own[nth + 1]) : layer("mask", place); // what the next one met
      const mask = (when, pixels) => [swatch("truth"), " truth, ", swatch("mask"), ` mask ${when}${pixels ? "" : ": empty"}`];
      return make("section", {},
        make("p", { textContent: `Changed by ${rules[rule]}: score ${before.toFixed(2)} to ${after.toFixed(2)}, pixels of salt: ${added} more, ${removed} fewer` }),
        make("div", { className: "panels" },
          panel("art fixed", [...of("image", "truth"), layer("before", change)], ...mask("before", left - added + removed)),
          panel("art fixed", [...of("image", "truth"), then], ...mask("after", left)),
          panel("art fixed", [...of("image"), layer("flipped", change)], swatch("flipped"), " changed")));
    }));
    if (viewer.dataset.tile !== state.tile) viewer.scrollTop = 0; // not where only a layer was switched
    viewer.dataset.tile = state.tile;
  };

  const step = (by) => {
    if (state.tile) {
      const next = order[order.indexOf(places.get(state.tile)) + by];
      if (order.includes(places.get(state.tile)) && next !== undefined) go({ tile: facts.id[next] });
      return;
    }
    const shown = [...grid.children];
    const at = shown.indexOf(document.activeElement);
    (shown[at < 0 ? 0 : at + by] ?? shown[at])?.focus();
  };

  const toggle = (name) => {
    if (!sheets[name]) return;
    const on = new Set(state.layers.split(" ").filter(Boolean));
    if (!on.delete(name)) on.add(name);
    go({ layers: Object.keys(LAYERS).filter((each) => on.has(each)).join(" ") });
  };

  // ---- controls
  const offer = (name, options) => {
    const select = tools.elements[name];
    select.append(...options.map(([value, text]) => make("option", { value, textContent: text })));
    select.closest("label").hidden = options.length < 2;
  };
  const distinct = (name) => [...new Set(facts[name] ?? [])].sort((a, b) => a - b);
  const sorts = { score: "score", coverage: "coverage", uncertainty: "uncertainty", id: "id" };
  const kinds = [...new Set(facts.kind)].sort();
  offer("show", [["all", "all tiles"], ...(facts.score ? [["worst", "the worst fifty"]] : []),
    ...(rules.length ? [["changed", `changed by any rule (${changedAtAll.size})`]] : []),
    ...rules.map((rule, number) => [`rule-${number}`, `changed by ${rule} (${changedBy[number].size})`])]);
  offer("kind", [["all", "all kinds"], ["salt", "not empty"], ...kinds.map((kind) => [kind, kind])]);
  offer("class", [["all", "all classes"], ...distinct("class").map((each) => [String(each), `class ${each}`])]);
  offer("fold", distinct("fold").length ? [["all", "all folds"], ...distinct("fold").map((each) => [String(each), `fold ${each}`])] : []);
  offer("sort", Object.keys(sorts).filter((name) => facts[name]).flatMap((name) =>
    [[name, `${sorts[name]}, ${name === "id" ? "A first" : "lowest first"}`], [`-${name}`, `${sorts[name]}, ${name === "id" ? "Z first" : "highest first"}`]]));
  tools.elements.sort.value = defaults.sort;
  for (const name of Object.keys(LAYERS).filter((each) => sheets[each])) {
    const box = make("input", { type: "checkbox", name });
    box.addEventListener("change", () => toggle(name));
    layerBoxes.append(make("label", {}, box, make("span", { className: `swatch ${name}` }), NAMES[name]));
  }

  const KEYS = [[["→", "j"], "next tile"], [["←", "k"], "previous tile"], [["Enter"], "enlarge the tile"], [["Esc"], "close"],
    ...Object.entries(LAYERS).filter(([name]) => sheets[name]).map(([name, key]) => [[key], `${NAMES[name]} on or off`]), [["?"], "these keys"]];
  document.getElementById("keys").append(...KEYS.map(([keys, what]) =>
    make("tr", {}, make("td", {}, ...keys.flatMap((key) => [make("kbd", { textContent: key }), " "])), make("td", { textContent: what }))));

  tools.addEventListener("submit", (event) => event.preventDefault());
  tools.addEventListener("change", ({ target }) => target.matches("select") && go({ [target.name]: target.value, tile: "" }, true));
  grid.addEventListener("click", (event) => {
    const tile = event.target.closest(".tile");
    if (!tile || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    location.hash = hash({ tile: facts.id[tile.dataset.place] });
  });
  document.getElementById("previous").addEventListener("click", () => step(-1));
  document.getElementById("next").addEventListener("click", () => step(1));
  document.getElementById("help-button").addEventListener("click", () => open(help));
  for (const dialog of [viewer, help]) {
    dialog.addEventListener("click", ({ target, clientX, clientY }) => {
      const { left, right, top, bottom } = dialog.getBoundingClientRect();
      if (target === dialog && (clientX < left || clientX > right || clientY < top || clientY > bottom)) dialog.close();
    });
  }
  for (const button of document.querySelectorAll("dialog .close")) button.addEventListener("click", () => button.closest("dialog").close());
  viewer.addEventListener("close", () => {
    const { tile } = state;
    if (!tile) return;
    go({ tile: "" }); // first: the event of the last step, coming late, may have opened the view again
    tiles[places.get(tile)].focus();
  });
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("select")) return;
    if (help.open ? event.key !== "?" : !(viewer.open || attended())) return;
    const keys = { ArrowRight: () => step(1), j: () => step(1), ArrowLeft: () => step(-1), k: () => step(-1),
      "?": () => (help.open ? help.close() : open(help)) };
    for (const [name, key] of Object.entries(LAYERS)) keys[key] = () => toggle(name);
    const does = keys[event.key];
    if (!does) return;
    event.preventDefault();
    does();
  });

  const inView = () => {
    const { top, bottom } = gallery.getBoundingClientRect();
    return bottom > 0 && top < window.innerHeight;
  };
  // whether a key is meant for the tiles: not where a table or a figure scrolls by the same keys
  const attended = () => inView() && !document.activeElement.closest(".scroll, .plate");
  const follow = () => read() && location.hash && (inView() || gallery.scrollIntoView());
  window.addEventListener("hashchange", follow);
  arrange();
  show();
  follow();
})();
