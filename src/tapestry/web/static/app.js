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
