/* What of the page runs in the browser: it keeps the conversations, one key of localStorage each, turns what
   display.py made of texts back wherever a user copies or edits them, and shows sources (with page_sources.js). */
(() => {
  const CHAT = "openglm-chat-", GONE = "openglm-gone-", NOW = "openglm-now";
  const SETTINGS = "openglm-settings", DARK = "openglm-dark";
  const TITLE = 40, WEEK = 7 * 24 * 3600 * 1000, SETTLED = 1000;
  const chinese = navigator.language.startsWith("zh");
  // All kinds of Chinese have these words.
  if (chinese) Object.defineProperty(navigator, "language", {get: () => "zh-CN"});
  document.documentElement.lang = chinese ? "zh-CN" : "en";

  const hex = (one) => one.toString(16).padStart(2, "0");
  const fresh = () => [...crypto.getRandomValues(new Uint8Array(16))].map(hex).join("");
  const read = (id) => { try { return JSON.parse(localStorage.getItem(CHAT + id)); } catch { return null; } };
  const gone = (id) => localStorage.getItem(GONE + id) !== null;
  const keys = (start) =>
    Object.keys(localStorage).filter((key) => key.startsWith(start)).map((key) => key.slice(start.length));
  const seen = {};   // by id: which state of a chat this tab knows
  const names = {};  // by id: under which other one this tab goes on, for another tab changed the chat meanwhile

  /* name: that by which the server knows the chat. */
  function write(id, messages, name = id) {
    const state = seen[id] = fresh();
    try {
      localStorage.setItem(CHAT + id, JSON.stringify({messages, at: Date.now(), state}));
      setTimeout(() => look(id, messages, name, state), SETTLED);
      document.getElementById("openglm-full")?.remove();
    } catch { full(); }
  }

  /* Tabs learn of each other's writing a little later: what another one wrote over is written again,
     as a chat of its own. */
  function look(id, messages, name, state) {
    const now = read(id)?.messages, mine = JSON.stringify(messages);
    if (!now || seen[id] !== state || JSON.stringify(now.slice(0, messages.length)) === mine) return;
    write(names[name] = fresh(), messages, name);
    document.getElementById("relist")?.click();
  }

  function full() {
    const alert = document.getElementById("openglm-full") ?? document.createElement("div");
    alert.id = "openglm-full";
    alert.setAttribute("role", "alert");
    alert.textContent = chinese
      ? "浏览器的存储空间已满：本对话的最新内容没有保存。请导出本对话，或删除旧对话。"
      : "The browser's storage is full: the latest of this chat is not kept. Export it, or delete old chats.";
    document.body.prepend(alert);
  }

  /* A conversation as the server takes it. */
  function opened(id) {
    const kept = read(id);
    openglmSources.trust(id);
    seen[id] = kept?.state;
    return {id, messages: kept?.messages ?? []};
  }

  /* The conversation that is shown, with what another tab added to it. */
  function latest(chat) {
    const id = names[chat?.id] ?? chat?.id;
    if (!id || gone(id)) return opened(fresh());
    return read(id) ? opened(id) : {id, messages: chat.messages};
  }

  /* A question leaves the box when it is kept, and what was typed behind it meanwhile stays. */
  let asked = "";
  function ask(text, chat, ...rest) {
    asked = text;
    return [text, latest(chat), ...rest];
  }

  function type(area, text) {
    area.value = text;
    area.dispatchEvent(new Event("input", {bubbles: true}));
  }

  function found(words) {
    const wanted = (words ?? "").toLowerCase().split(/\s+/).filter(Boolean);
    const chats = keys(CHAT).map((id) => ({id, ...read(id)})).filter((chat) => chat.messages?.length);
    const hits = chats.filter(({messages}) => {
      const text = messages.map((message) => message.content).join("\n").toLowerCase();
      return wanted.every((word) => text.includes(word));
    });
    const title = ({messages}) => {
      const line = messages[0].content.split(/\s+/).filter(Boolean).join(" ");
      return line.length > TITLE ? line.slice(0, TITLE) + "…" : line;
    };
    const choices = hits.sort((a, b) => b.at - a.at).map((chat) => [title(chat), chat.id]);
    return {__type__: "update", choices, value: sessionStorage.getItem(NOW)};
  }

  /* Keep what the server shows; the list of conversations follows. What was deleted stays deleted. */
  function saved(chat, words) {
    if (chat?.id) openglmSources.trust(chat.id);
    let id = names[chat?.id] ?? chat?.id;
    if (!id || gone(id)) return found(words);
    const {messages} = chat, kept = read(id);
    if (JSON.stringify(kept?.messages ?? []) !== JSON.stringify(messages)) {
      if (kept && kept.state !== seen[id]) id = names[chat.id] = fresh();
      if (messages.length) write(id, messages, chat.id);
      else localStorage.removeItem(CHAT + id);
    }
    sessionStorage.setItem(NOW, id);
    const box = document.querySelector("#box textarea");
    if (asked && box.value.startsWith(asked)) type(box, box.value.slice(asked.length));
    asked = "";
    return found(words);
  }

  function dropped(chat) {
    for (const id of [chat?.id, names[chat?.id]].filter(Boolean)) {
      localStorage.removeItem(CHAT + id);
      try { localStorage.setItem(GONE + id, Date.now()); } catch { full(); }
    }
    return chat;
  }

  /* The conversation of this tab, or the newest. old: all of them, as earlier versions of this page kept them. */
  function first(old) {
    for (const id of keys(GONE))
      if (Date.now() - localStorage.getItem(GONE + id) > WEEK) localStorage.removeItem(GONE + id);
    if (old?.all) localStorage.removeItem("openglm-chats");  // first: there may be no room for both
    for (const [id, messages] of Object.entries(old?.all ?? {}))
      if (messages.length && !gone(id) && !read(id)) write(id, messages);
    if (localStorage.getItem(DARK)) dark(localStorage.getItem(DARK) === "true");
    const id = sessionStorage.getItem(NOW) ?? found("").choices[0]?.[1];
    return opened(id && !gone(id) ? id : fresh());
  }

  /* Settings stand in Gradio's boxes before it begins: later, a user may have typed there already. */
  function place({components, dependencies}) {
    const kept = JSON.parse(localStorage.getItem(SETTINGS)) ?? [];
    for (const [index, id] of dependencies.find(({js}) => js === "openglm.set").inputs.entries()) {
      const {props} = components.find((one) => one.id === id), value = kept[index] ?? props.value;
      props.value = "maximum" in props ? Math.min(value, props.maximum) : value;  // another model's context is shorter
    }
  }
  try { place(window.gradio_config); } catch { /* nothing that can be read is kept */ }

  /* What stands in the boxes is kept: on a slow machine Gradio may hand over a value that is a keystroke old. */
  function set(...values) {
    for (const [index, name] of ["system", "tools"].entries())
      values[index] = document.querySelector(`#${name} textarea`)?.value ?? values[index];
    try { localStorage.setItem(SETTINGS, JSON.stringify(values)); } catch { full(); }
  }

  function dark(turn) {
    const now = document.body.classList.toggle("dark", turn ?? !document.body.classList.contains("dark"));
    localStorage.setItem(DARK, now);
  }

  const plain = (whole) => unmarked(openglmSources.plain(whole));
  const unmarked = (text) => text.match(/^(`{3,})typed\n([\s\S]*)\n\1$/)?.[2]
    ?? text.replace(/\u2060\\\((.*?)\\\)\u2060/g, "$$$1$$").replace(/(?<=[<!\]&])\u2060|(?<=[*_~])\ufeff/g, "");

  /* What display.py put between characters is for Markdown, not for whoever selects a text or edits it. */
  function clean(root) {
    const texts = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
    for (let node = root.nodeType === Node.TEXT_NODE ? root : texts.nextNode(); node; node = texts.nextNode())
      if (/[\u2060\ufeff]/.test(node.data)) node.data = node.data.replace(/[\u2060\ufeff]/g, "");
    for (const one of root.querySelectorAll?.("[aria-label*='```typed']") ?? [])
      one.ariaLabel = one.ariaLabel.replace(/`{3,}(typed\n)?/g, "").trim();
    for (const one of root.querySelectorAll?.("[aria-label*='```sources-']") ?? [])
      one.ariaLabel = openglmSources.plain(one.ariaLabel);
    for (const area of root.querySelectorAll?.("textarea") ?? [])
      requestAnimationFrame(() => type(area, plain(area.value)));
  }

  const NAMES = [
    [".submit-button", "Send", "发送"],
    [".stop-button", "Stop", "停止"],
    [".toggle-button", "Chats and settings", "对话与设置"],
  ];

  new MutationObserver((changes) => {
    for (const [what, english, other] of NAMES)
      for (const one of document.querySelectorAll(`${what}:not([aria-label])`))
        one.ariaLabel = chinese ? other : english;
    for (const {target, addedNodes} of changes)
      if ((target.closest ?? target.parentElement?.closest)?.call(target.closest ? target : target.parentElement, "#talk"))
        for (const node of addedNodes.length ? addedNodes : [target]) clean(node);
    openglmSources.show();
  }).observe(document, {childList: true, subtree: true, characterData: true});

  if (navigator.clipboard) {
    const put = navigator.clipboard.writeText.bind(navigator.clipboard);
    navigator.clipboard.writeText = (text) => put(plain(text));
  }
  window.addEventListener("storage", () => document.getElementById("relist")?.click());
  window.openglm = {opened, ask, found, saved, dropped, first, set, dark};
})();
