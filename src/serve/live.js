"use strict";
// Ages grow; the page is fetched anew each minute while it is looked at and nobody types.
const words = (s) => s < 60 ? s.toFixed(1) + " s"
  : s < 3600 ? Math.floor(s / 60) + "m " + String(Math.floor(s % 60)).padStart(2, "0") + "s"
  : Math.floor(s / 3600) + "h " + String(Math.floor(s % 3600 / 60)).padStart(2, "0") + "m";
// The clock of the server counts, not that of whoever looks.
const skew = Number(document.documentElement.dataset.now || Date.now()) - Date.now();
const tick = () => {
  for (const age of document.querySelectorAll(".age")) {
    age.textContent = words(Math.max(0, (Date.now() + skew - Number(age.dataset.since)) / 1000));
  }
};
setInterval(() => { if (!document.hidden) tick(); }, 1000);
const typing = () => document.activeElement && document.activeElement.matches("input, button, summary, .scroll, a");
setInterval(() => { if (!document.hidden && !typing() && !location.search.includes("to=")) location.reload(); }, 60000);
