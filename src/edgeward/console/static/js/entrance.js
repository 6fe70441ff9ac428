// Login and password pages: only the colours need a script.
import "./preferences.js";
