// One sound at a time; a click on a spectrogram seeks; the white line is where the sound is.
const sounds = [...document.querySelectorAll("audio")];
for (const sound of sounds) {
  const picture = sound.parentElement.querySelector(".picture");
  const line = picture.querySelector("i");
  const follow = () => {
    line.style.left = `${(100 * sound.currentTime) / (sound.duration || 1)}%`;
    if (!sound.paused) requestAnimationFrame(follow);
  };
  sound.addEventListener("play", () => {
    sounds.forEach((other) => other !== sound && other.pause());
    line.classList.add("on");
    follow();
  });
  sound.addEventListener("seeked", follow);
  picture.addEventListener("click", (event) => {
    const box = picture.getBoundingClientRect();
    sound.currentTime = ((event.clientX - box.left) / box.width) * (sound.duration || 0);
    sound.play();
  });
}

// Under the pointer, a chart tells its values.
for (const svg of document.querySelectorAll("svg[data-x]")) {
  const lines = [...svg.querySelectorAll("polyline")].map((line) => ({
    name: line.dataset.name,
    places: line.getAttribute("points").split(" ").map((p) => p.split(",").map(Number)),
    values: line.dataset.values.split(" ").map((p) => p.split(",")),
  }));
  const cursor = document.createElementNS("http://www.w3.org/2000/svg", "line");
  cursor.setAttribute("class", "cursor");
  const tip = document.createElement("div");
  tip.className = "tip";
  svg.addEventListener("pointermove", (event) => {
    const view = svg.viewBox.baseVal;
    const x = ((event.clientX - svg.getBoundingClientRect().left) / svg.clientWidth) * view.width;
    const rows = lines.map(({ name, places, values }) => {
      let best = 0;
      places.forEach((p, i) => {
        if (Math.abs(p[0] - x) < Math.abs(places[best][0] - x)) best = i;
      });
      return { name, x: places[best][0], value: values[best] };
    });
    cursor.setAttribute("x1", rows[0].x);
    cursor.setAttribute("x2", rows[0].x);
    cursor.setAttribute("y1", 0);
    cursor.setAttribute("y2", view.height - 26);
    const shown = rows.map((r) => (rows.length > 1 ? `${r.name} ${r.value[1]}` : r.value[1]));
    tip.textContent = `${svg.dataset.x} ${rows[0].value[0]}: ${shown.join(" · ")}`;
    svg.append(cursor);
    svg.parentElement.append(tip);
  });
  svg.addEventListener("pointerleave", () => {
    cursor.remove();
    tip.remove();
  });
}
