// What every page needs: the theme's button. Pages without scripts work; they are read, not watched.
"use strict";
(() => {
  const root = document.documentElement;
  const dark = () => root.dataset.theme === "dark"
    || (!root.dataset.theme && matchMedia("(prefers-color-scheme: dark)").matches);
  for (const button of document.querySelectorAll("[data-theme-toggle]")) {
    button.addEventListener("click", () => {
      root.dataset.theme = dark() ? "light" : "dark";
      try { localStorage.setItem("tapestry-theme", root.dataset.theme); } catch { /* private window */ }
      document.dispatchEvent(new CustomEvent("tapestry:theme"));
    });
  }
})();
// A part that is sent anew keeps what was opened in it, and where the keyboard was.
(() => {
  const opened = new Set();
  document.addEventListener("toggle", (event) => {
    const name = event.target.dataset?.keep;
    if (name) { if (event.target.open) opened.add(name); else opened.delete(name); }
  }, true);
  document.addEventListener("htmx:after:swap", () => {
    // The first merge brings charts.
    if (document.querySelector("[data-nothing-yet]") && document.querySelector("#live [data-merged]")) location.reload();
    for (const each of document.querySelectorAll("details[data-keep]")) if (opened.has(each.dataset.keep)) each.open = true;
  });
  document.addEventListener("click", async (event) => {
    const link = event.target.closest("[data-copy-link]");
    if (!link || event.ctrlKey || event.metaKey || !navigator.clipboard) return;
    event.preventDefault();
    const query = new URLSearchParams(new URL(link.href).search);
    for (const [name, value] of new URLSearchParams(location.search)) query.set(name, value);
    const address = new URL(link.href);
    address.search = query.toString();
    history.replaceState(history.state, "", address);
    try { await navigator.clipboard.writeText(address.href); } catch { return; }
    const text = link.textContent;
    link.textContent = link.dataset.copied;
    setTimeout(() => { link.textContent = text; }, 1500);
  });
})();
