// A button beside each command that copies it. Without a clipboard the button stays away.
"use strict";
(() => {
  if (!navigator.clipboard) return;
  for (const place of document.querySelectorAll(".command")) {
    const button = place.querySelector("[data-copy]");
    const said = button.textContent;
    button.hidden = false;
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(place.querySelector("code").textContent);
        button.textContent = place.dataset.copied;
      } catch { /* it was not allowed */ }
      setTimeout(() => { button.textContent = said; }, 2000);
    });
  }
})();
