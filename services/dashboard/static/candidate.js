// Draws the scaffold's difference to its parent, in the place of its plain text.
(() => {
  const place = document.getElementById("diff");
  if (!place) return;
  const text = place.textContent.trim();
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const html = Diff2Html.html(text, { drawFileList: false, outputFormat: innerWidth > 1000 ? "side-by-side" : "line-by-line", colorScheme: dark ? "dark" : "light" });
  place.innerHTML = html;  // diff2html escapes what stands in the files
  for (const part of place.querySelectorAll(".d2h-file-side-diff, .d2h-file-diff")) part.tabIndex = 0;
})();
