// Before the first paint, so that nobody sees the other colours first: what was chosen the last time.
(() => {
  const chosen = localStorage.getItem("theme");
  if (chosen === "dark" || chosen === "light") document.documentElement.dataset.theme = chosen;
})();
