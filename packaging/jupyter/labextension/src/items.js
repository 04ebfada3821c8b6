// What is always there: an item in JupyterLab's status bar, for the container, and one in each
// notebook's toolbar, for the notebook. Both open the panel. Without a guard neither is shown.

function makeButton(className, panel) {
  const node = element('button', className);
  node.type = 'button';
  // The button, not its widget: JupyterLab's status bar shows and hides widgets as it sees fit.
  node.hidden = true;
  node.setAttribute('aria-haspopup', 'dialog');
  node.setAttribute('aria-expanded', 'false');
  node.addEventListener('click', () => panel.toggle(node));
  return node;
}

/** Puts the figures on a button, which keeps its focus and is announced only where it changed. */
function label(button, text, title, container, mine) {
  const shown = JSON.stringify([text, title, level(container)]);
  if (button.dataset.shown !== shown) {
    button.dataset.shown = shown;
    button.dataset.level = level(container);
    button.replaceChildren(meter(container, mine), element('span', '', text));
    button.title = title;
    button.setAttribute('aria-label', `${text}. ${title}`);
  }
}

function makeStatusItem(lumino, poll, panel) {
  const button = makeButton('nbguard-item nbguard-status', panel);
  const widget = new lumino.Widget({ node: element('div', '', button) });
  poll.listen(() => {
    const container = poll.container;
    button.hidden = !container;
    if (container) {
      const text = `Mem ${bytes(used(container))} · ${percent(share(container))} of ${bytes(container.total)}`;
      label(button, text, title(container), container, 0);
    }
  });
  return widget;
}

function makeToolbarItem(lumino, poll, panel, isOf) {
  const button = makeButton('nbguard-item nbguard-toolbar', panel);
  const widget = new lumino.Widget({ node: element('div', 'jp-Toolbar-item', button) });
  const stop = poll.listen(() => {
    const container = poll.container;
    button.hidden = !container;
    if (container) {
      const mine = container.notebooks.find(isOf);
      const text = mine ? `${bytes(mine.memory)} · ${percent(mine.share)}` : 'Mem –';
      const whole = mine ? `This notebook holds ${bytes(mine.memory)}.\n` : 'This notebook holds nothing yet.\n';
      label(button, text, whole + title(container), container, mine?.memory);
    }
  });
  widget.disposed.connect(stop);
  return widget;
}

function title(container) {
  return `Container: ${inOneSentence(container)}.`;
}
