// Without this script every policy's passes are shown; with it, the two that are chosen.
for (const block of document.querySelectorAll(".passes")) {
  const grid = block.querySelector(".pair");
  const figures = [...grid.children];
  const choices = [...block.querySelectorAll("select")];
  const show = () => {
    const wanted = choices.map((choice) => choice.value);
    grid.replaceChildren(...[...new Set(wanted)].map((name) => figures.find((f) => f.dataset.policy === name)));
  };
  for (const choice of choices) choice.addEventListener("change", show);
  block.querySelector(".choices").hidden = false;
  show();
}
