"""What the checks ask of Chromium."""

import json

import driver

# What counts as text that somebody reads, and as something that somebody operates.
OPERABLE = "a[href], button, input, [tabindex='0']"

# Remembered from the first line of the page on: what the policy stopped.
WATCH = """
window.violations = [];
document.addEventListener("securitypolicyviolation", event => violations.push(event.violatedDirective + " " + event.blockedURI));
"""

# Every text whose contrast to what it stands on is below 4.5 (WCAG 2.1, 1.4.3). Backgrounds that
# are patterns carry no text.
CONTRAST = """
const canvas = Object.assign(document.createElement("canvas"), {width: 1, height: 1}).getContext("2d", {willReadFrequently: true});
const rgba = text => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = text; canvas.fillRect(0, 0, 1, 1); return [...canvas.getImageData(0, 0, 1, 1).data]; };
const light = ([r, g, b]) => [r, g, b].map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
  .reduce((sum, v, n) => sum + v * [0.2126, 0.7152, 0.0722][n], 0);
const low = [];
const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
let seen = 0;
while (walk.nextNode()) {
  const el = walk.currentNode.parentElement;
  if (!walk.currentNode.data.trim() || el.closest(".sr, noscript") || !el.getClientRects().length || getComputedStyle(el).fontSize === "0px") continue;
  let at = el, back = rgba(getComputedStyle(at).backgroundColor);
  while (back[3] < 255 && at.parentElement) { at = at.parentElement; back = rgba(getComputedStyle(at).backgroundColor); }
  const [a, b] = [light(rgba(getComputedStyle(el).color)), light(back)].sort((x, y) => y - x);
  const ratio = (a + 0.05) / (b + 0.05);
  seen++;
  if (ratio < 4.5) low.push(ratio.toFixed(2) + " " + el.tagName + "." + el.className + ": " + walk.currentNode.data.slice(0, 40));
}
return [seen, [...new Set(low)]];
"""

# What sticks out on the right, of the page and of every box that hides what sticks out.
WIDER = """
const out = [];
if (document.documentElement.scrollWidth > innerWidth) out.push("the page is " + document.documentElement.scrollWidth + " px wide");
for (const el of document.querySelectorAll("body *")) {
  const box = el.getBoundingClientRect();
  const clipped = el.closest(".sr, .bar, pre, #strip");
  if (!clipped && box.width && box.right > innerWidth + 0.5) out.push(el.tagName + "." + el.className + " ends at " + Math.round(box.right));
}
return out.slice(0, 5);
"""


class Browser(driver.Browser):
    patience = 15

    def __init__(self, pictures):
        super().__init__("--hide-scrollbars", "--disable-background-networking", "--lang=en-GB", logs=("browser", "performance"))
        self.cdp("Page.addScriptToEvaluateOnNewDocument", source=WATCH)
        self.pictures = pictures

    def look(self, width=1440, height=900, dark=False, **features):
        """The window and its owner's preferences."""
        self.cdp("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        wishes = {"prefers-color-scheme": "dark" if dark else "light"} | {name.replace("_", "-"): value for name, value in features.items()}
        self.cdp("Emulation.setEmulatedMedia", features=[{"name": name, "value": value} for name, value in wishes.items()])

    def open(self, address):
        """The page, as soon as it shows figures (or says why not)."""
        self.go("about:blank")
        self.log("browser"), self.log("performance")
        self.go(address)
        self.wait("return Boolean(view.data || view.trouble)")

    def refresh(self):
        """Asks now, and waits for the answer."""
        self.wait("return view.due !== Infinity")
        self.run("view.due = 0; tick()")
        self.wait("return view.due !== Infinity")

    def errors(self):
        """What the console and the policy complained about."""
        lines = [entry["message"] for entry in self.log("browser") if entry["level"] in ("SEVERE", "WARNING")]
        return lines + self.run("return window.violations")

    def requests(self):
        """Every address that was asked for since the page was opened."""
        events = [json.loads(entry["message"])["message"] for entry in self.log("performance")]
        return [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]

    def texts(self, selector):
        """Of all such elements, visible or not."""
        return self.run("return [...document.querySelectorAll(arguments[0])].map(el => el.textContent)", selector)

    def tree(self):
        """The accessibility tree: (role, name) of every node that a screen reader meets."""
        nodes = self.cdp("Accessibility.getFullAXTree")["nodes"]
        return [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if not node.get("ignored") and "role" in node]

    def picture(self, name, whole=True, most=5000):
        """Of the whole page, in the window as it is."""
        size = self.run("return [innerWidth, innerHeight, document.documentElement.scrollHeight]")
        if whole:
            self.cdp("Emulation.setDeviceMetricsOverride", width=size[0], height=min(most, max(size[1:])), deviceScaleFactor=1, mobile=False)
            self.run("return new Promise(done => requestAnimationFrame(() => setTimeout(done, 450)))")
        path = self.pictures / f"{name}.png"
        super().picture(path)
        if whole:
            self.cdp("Emulation.setDeviceMetricsOverride", width=size[0], height=size[1], deviceScaleFactor=1, mobile=False)
        return path
