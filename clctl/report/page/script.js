
// A button that copies a command; without a script the text can still be selected.
for (const block of document.querySelectorAll("[data-copy]")) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "copy";
  button.textContent = "Copy";
  const said = document.createElement("span");
  said.className = "said";
  said.setAttribute("role", "status");
  button.addEventListener("click", async () => {
    const text = block.textContent.trim();
    try {
      await navigator.clipboard.writeText(text);
      said.textContent = "Copied";
    } catch {
      const range = document.createRange();
      range.selectNodeContents(block);
      const selection = getSelection();
      selection.removeAllRanges();
      selection.addRange(range);
      said.textContent = "Selected: press Ctrl+C, or Command+C";
    }
    setTimeout(() => { said.textContent = ""; }, 4000);
  });
  block.before(button, said);
}
