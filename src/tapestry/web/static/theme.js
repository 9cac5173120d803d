// Before the first paint: the theme that was chosen last, if one was. Kept in this browser only.
"use strict";
(() => {
  let chosen = null;
  try { chosen = localStorage.getItem("tapestry-theme"); } catch { /* private window */ }
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
})();
