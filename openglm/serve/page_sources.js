/* The sources of an answer: a list below it, and each mark such as [1] a button that shows the quoted passage on hover,
   focus and tap. What pages say becomes text, never HTML, and only addresses of the web become links. */
const openglmSources = (() => {
  const BLOCK = /\n*(`{3,})sources-([0-9a-f]{32})\n([^\n]*)\n\1/g, MARK = /\[(\d+|\?)\]/;
  const LEAVES = 250;  // milliseconds for the pointer to go from a mark to the passage
  const chinese = navigator.language.startsWith("zh");
  const say = (english, other) => chinese ? other : english;
  const trusted = new Set();  // names of conversations, which no model knows: only the server writes such a block
  const sources = new WeakMap();  // of each mark
  let count = 0, card, mark, leaving;

  function make(tag, name, ...parts) {
    const one = document.createElement(tag);
    if (name) one.className = name;
    one.append(...parts);
    return one;
  }

  function isWeb(url) {
    try { return ["http:", "https:"].includes(new URL(url).protocol); } catch { return false; }
  }

  function link(url, text) {
    const one = make(isWeb(url) ? "a" : "span", "", text);
    if (one.tagName === "A") Object.assign(one, {href: url, target: "_blank", rel: "noopener noreferrer"});
    return one;
  }

  /* The list below an answer, with what could not be used folded. */
  function list(found, problems) {
    const out = make("div", "sources");
    if (found.length) out.append(make("strong", "", say("Sources", "资料来源")));
    for (const source of found) {
      const {index, title, address: url, quote} = source, said = make("q", "", quote);
      source.id = said.id = `openglm-quote-${count += 1}`;
      const beside = title && title !== url ? [" ", make("small", "", url)] : [];
      out.append(make("div", "", `[${index}] `, link(url, title || url), ...beside, make("br"), said));
    }
    if (problems.length) {
      const head = say(`${problems.length} could not be used`, `${problems.length} 项未能使用`);
      out.append(make("details", "", make("summary", "", head), ...problems.map((one) => make("div", "", one))));
    }
    return out;
  }

  /* Make the marks in a text buttons. */
  function linkMarks(text, byNumber) {
    for (let found = MARK.exec(text.data), start; found; found = MARK.exec(text.data)) {
      start = text.splitText(found.index);
      text = start.splitText(found[0].length);
      const source = byNumber.get(found[1]);
      if (!source) continue;
      const button = make("button", "cite", found[0]);
      button.type = "button";
      button.ariaLabel = source.quote === undefined ? source.title : `${say("Source", "来源")} ${found[1]}: ${source.title}`;
      if (source.id) button.setAttribute("aria-describedby", source.id);
      sources.set(button, source);
      start.replaceWith(button);
    }
  }

  function show() {
    for (const code of document.querySelectorAll("#talk code[class*='language-sources-']")) {
      const name = code.className.match(/language-sources-([0-9a-f]{32})/)?.[1], block = code.closest(".code_wrap");
      if (!trusted.has(name) || !block) continue;
      const [found, problems] = JSON.parse(code.textContent), text = block.parentElement, texts = [];
      const unsupported = say("No source supports this sentence.", "没有资料支持这句话。");
      block.className = "";
      block.replaceChildren(list(found, problems));
      const byNumber = new Map([["?", {title: unsupported}], ...found.map((one) => [String(one.index), one])]);
      const walker = document.createTreeWalker(text, NodeFilter.SHOW_TEXT);
      for (let node = walker.nextNode(); node; node = walker.nextNode())
        if (!block.contains(node) && !node.parentElement.closest("pre, code, a, button, .katex")) texts.push(node);
      for (const one of texts) if (one.parentElement !== text) linkMarks(one, byNumber);
    }
    if (mark && !mark.isConnected) hide();
  }

  function open(button) {
    const {title, address: url, quote} = sources.get(button);
    clearTimeout(leaving);
    if (mark === button) return;
    mark = button;
    card ??= document.body.appendChild(make("div"));
    card.id = "openglm-card";
    card.hidden = false;
    card.replaceChildren(...(quote ? [make("q", "", quote), make("br")] : []), url ? link(url, title || url) : title);
    place();
  }

  /* Beside the mark, and all of it on the screen. */
  function place() {
    if (!mark) return;
    const at = mark.getBoundingClientRect(), {offsetWidth: width, offsetHeight: height} = card, edge = 8;
    const below = at.bottom + height + edge < innerHeight;
    card.style.left = `${Math.max(edge, Math.min(at.left, innerWidth - width - edge))}px`;
    card.style.top = `${Math.max(edge, below ? at.bottom + 4 : at.top - height - 4)}px`;
  }

  function hide() {
    mark = undefined;
    if (card) card.hidden = true;
  }

  const near = (target, what) => target.closest?.(what);
  document.addEventListener("mouseover", ({target}) => {
    if (near(target, ".cite")) open(near(target, ".cite"));
    else if (near(target, "#openglm-card")) clearTimeout(leaving);
    else if (mark && mark !== document.activeElement) {
      clearTimeout(leaving);
      leaving = setTimeout(hide, LEAVES);
    }
  });
  for (const happens of ["focusin", "click"]) document.addEventListener(happens, ({target}) => {
    if (near(target, ".cite")) open(near(target, ".cite"));
    else if (!near(target, "#openglm-card")) hide();
  });
  document.addEventListener("keydown", ({key}) => { if (key === "Escape") hide(); });
  document.addEventListener("scroll", place, true);

  return {
    show,
    trust: (name) => { trusted.add(name); show(); },
    /* A text that is copied, with its sources in words. */
    plain: (text) => text.replace(BLOCK, (block, _, name, json) => !trusted.has(name) ? block
      : JSON.parse(json)[0].map(({index, title, address}) => `\n[${index}] ${title} ${address}`).join("").replace(/^/, "\n")),
  };
})();
