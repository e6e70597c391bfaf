// A page opened from a file may not read other files: the search then lists its results without excerpts.
if (location.protocol === "file:") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;

// The theme lets the keyboard reach what scrolls, but looks for it only at the start and when the window changes:
// let it look again when folded code (an event "toggle") or a solution (a click) is opened.
const lookAgain = () => window.dispatchEvent(new Event("resize"));
document.addEventListener("toggle", lookAgain, true);
document.addEventListener("click", event => event.target.closest(".admonition.toggle") && lookAgain());
