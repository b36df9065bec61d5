// The pictures behind the points of a map: for a pointer, and for the arrow keys.
for (const map of document.querySelectorAll(".map")) {
  const { places, names, labels, columns, rows } = JSON.parse(
    map.querySelector("script[type='application/json']").textContent
  );
  const find = (name) => map.querySelector(`.map-${name}`);
  const [plot, ring, card, tile, name] = ["plot", "ring", "card", "tile", "name"].map(find);
  const percent = (part, parts) => `${parts > 1 ? (100 * part) / (parts - 1) : 0}%`;
  const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  let now = 0;

  function show(i) {
    now = i;
    const [x, y] = places[i];
    ring.style.left = card.style.left = `${100 * x}%`;
    ring.style.top = card.style.top = `${100 * y}%`;
    card.style.transform =
      `translate(${x < 0.5 ? "12px" : "calc(-100% - 12px)"}, ${y < 0.5 ? "0" : "-100%"})`;
    tile.style.backgroundPosition =
      `${percent(i % columns, columns)} ${percent(Math.floor(i / columns), rows)}`;
    name.textContent = labels ? `${labels[i]}: ${names[i]}` : names[i];
    ring.hidden = card.hidden = false;
  }

  function hide() {
    ring.hidden = card.hidden = true;
  }

  // The point with the least of a cost, -1 for none.
  function best(cost) {
    let found = -1;
    let least = Infinity;
    places.forEach((place, i) => {
      const value = cost(place, i);
      if (value < least) [found, least] = [i, value];
    });
    return found;
  }

  plot.addEventListener("pointermove", (event) => {
    const box = plot.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    const far = ([a, b]) => Math.hypot(a * box.width - x, b * box.height - y);
    const i = best(far);
    if (far(places[i]) < 24) show(i);
    else hide();
  });
  plot.addEventListener("pointerleave", hide);
  plot.addEventListener("focus", () => show(now));
  plot.addEventListener("blur", hide);
  plot.addEventListener("keydown", (event) => {
    if (event.key === "Escape") return hide();
    const step = steps[event.key];
    if (!step) return;
    event.preventDefault();
    const [x, y] = places[now];
    // Ahead within half a right angle, the nearest; what lies aside counts double.
    const i = best(([a, b]) => {
      const ahead = (a - x) * step[0] + (b - y) * step[1];
      const aside = Math.abs((a - x) * step[1]) + Math.abs((b - y) * step[0]);
      return ahead > 0 && aside <= ahead ? ahead + 2 * aside : Infinity;
    });
    if (i >= 0) show(i);
  });
  plot.tabIndex = 0;
  plot.setAttribute("role", "application");
  plot.setAttribute("aria-label", "The map; the arrow keys walk from picture to picture");
  find("hint").hidden = false;
}
