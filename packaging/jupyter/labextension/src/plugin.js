// The JupyterLab plugin: finds what the page has, makes the parts, and names which notebook is which.

const TOOLBAR_ITEM = 'nbguard-memory';

/** `lab`: the modules of the page; a module that the page does not have is an empty object. */
function makePlugin(lab) {
  return {
    id: 'nbguard-jupyter:plugin',
    description: 'The memory of this container and its notebooks, and the reason when one was ended.',
    autoStart: true,
    requires: [lab.notebook.INotebookTracker],
    optional: [lab.apputils.IToolbarWidgetRegistry, lab.statusbar.IStatusBar].filter(Boolean),
    activate: (app, tracker, toolbars, statusBar) => activate(lab, app, tracker, toolbars, statusBar),
  };
}

function activate(lab, app, tracker, toolbars, statusBar) {
  const style = element('style', '');
  style.textContent = STYLE;
  document.head.append(style);

  const isOf = panel => row => isSame(row, panel);
  const isCurrent = row => tracker.currentWidget !== null && isSame(row, tracker.currentWidget);
  const isOpen = row => tracker.find(panel => isSame(row, panel)) !== undefined;
  // Notebook 7 has a status bar but mostly hides it, and its tree page shows no figures at all.
  const wanted = () => tracker.size > 0 || (statusBar?.isVisible ?? false);

  const settings = app.serviceManager.serverSettings;
  const poll = new Poll(async () => {
    const url = lab.coreutils.URLExt.join(settings.baseUrl, 'nbguard/api/status');
    const response = await lab.services.ServerConnection.makeRequest(url, {}, settings);
    if (!response.ok) {
      throw new lab.services.ServerConnection.ResponseError(response);
    }
    return response.json();
  }, wanted);
  const widgets = { ...lab.apputils, Widget: lab.widgets.Widget };
  const notices = new Notices(widgets, poll, isOpen);
  const panel = new Panel(poll, notices, isCurrent);

  toolbars?.addFactory('Notebook', TOOLBAR_ITEM, of => makeToolbarItem(widgets, poll, panel, isOf(of)));
  statusBar?.registerStatusItem('nbguard-jupyter:status', {
    item: makeStatusItem(widgets, poll, panel),
    align: 'left',
    rank: 5,
  });
  tracker.widgetAdded.connect((_, added) => {
    // A notebook that was ended while nobody looked is told when it is opened.
    added.sessionContext.kernelChanged.connect(() => notices.look());
    poll.wake();
    notices.look();
  });
  void app.restored.then(() => poll.wake());
}

/** Whether a notebook of the guard's is the one of this panel. */
function isSame(row, panel) {
  const kernel = panel.sessionContext?.session?.kernel?.id;
  if (row.kernel_id && row.kernel_id === kernel) {
    return true;
  }
  const context = panel.context;
  return Boolean(row.path) && (row.path === context?.localPath || row.path === context?.path);
}
